//! The forms of a layer: `tree/` and `layer.tar.zst`, each made from the other.
//!
//! Compression is no identity: the LayerId is that of the bytes inside, and both directions check it.
//! A layer is *cold* when only its archive stands. Whichever form goes, the other one is whole and synced before.

use crate::archive::{self, ArchiveError, Item};
use crate::beneath::Beneath;
use crate::commit::{CommitError, TreeError, rename, write_tree};
use crate::digest::{Digest, Hasher, LayerId};
use crate::durable;
use crate::entry::Node;
use crate::index::Index;
use crate::layer::{self, LayerError};
use crate::layout::{Store, TREE};
use crate::lock::{self, BuildLock, ExclusiveLock, SharedLock};
use crate::parallel;
use crate::path_error::{PathError, at, if_present};
use crate::private;
use crate::scratch::Scratch;
use crate::stage::{Parents, Stage, StageError};
use crate::usage::Ledger;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The level: as small as gzip -9 at a fraction of the time; more costs far more than it saves.
const ZSTD_LEVEL: i32 = 3;
/// Bounds what a broken archive without an index beside it can write: 64 GiB is arbitrary.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// Why a form cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The layer's index is missing or broken.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The tree cannot be read, or is not what the index says.
    #[error("cannot pack layer {id}")]
    Tree {
        /// The layer.
        id: LayerId,
        /// What is wrong.
        #[source]
        source: TreeError,
    },
    /// The archive is no canonical archive.
    #[error("{} is broken", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ArchiveError,
    },
    /// The entries could not be written.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The entries read do not make a layer.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The bytes are those of another layer.
    #[error("{} holds layer {found}, not {id}", path.display())]
    Identity {
        /// What was read.
        path: PathBuf,
        /// The layer it should be.
        id: LayerId,
        /// What its bytes say.
        found: LayerId,
    },
}

/// Writes to two places.
struct Both<'a, W: Write>(&'a mut Hasher, W);

impl<W: Write> Write for Both<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.1.write(bytes)?;
        self.0.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.1.flush()
    }
}

/// Makes `layer.tar.zst` from `tree/`.
pub fn pack(store: &Store, _permission: &SharedLock, id: &LayerId) -> Result<(), FormError> {
    let index = layer::read_index(store, id)?;
    let tree = store.tree(id);
    let mut beneath = Beneath::open(&tree).map_err(at("open", &tree))?;
    let scratch = Scratch::new(store)?;
    let temp = scratch.dir().join("packed");
    let file = private::create_new(&temp).map_err(at("create", &temp))?;
    let mut hasher = Hasher::new();
    let written = (|| {
        let mut encoder = zstd::Encoder::new(&file, ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        // One worker gives the same bytes as many, and other bytes than none: always one.
        encoder.multithread(1)?;
        let mut out = Both(&mut hasher, encoder);
        write_tree(&mut beneath, index.entries(), &mut out, &mut |_, _| {})?;
        out.1.finish()?;
        Ok(())
    })();
    written.map_err(|source| FormError::Tree { id: *id, source })?;
    let found = LayerId::new(hasher.finish());
    if found != *id {
        return Err(FormError::Identity { path: tree, id: *id, found });
    }
    // The tree may be removed once this stands, so it must outlive a power cut.
    file.sync_all().map_err(at("sync", &temp))?;
    let packed = store.packed(id);
    keeping_time(&packed, || fs::rename(&temp, &packed))?;
    Ok(durable::sync_dir(&store.layer(id))?)
}

/// Writes the canonical tar of a tree that is just what `index` says, such as a composed root; returns its name as a layer.
pub fn write_archive<W: Write>(tree: &Path, index: &Index, out: &mut W) -> Result<LayerId, TreeError> {
    let mut beneath = Beneath::open(tree).map_err(at("open", tree))?;
    let mut hasher = Hasher::new();
    let mut changed = None;
    let mut both = Both(&mut hasher, out);
    write_tree(&mut beneath, index.entries(), &mut both, &mut |at, found| {
        if !matches!(&index.entries()[at].node, Node::File { digest, .. } if *digest == found) {
            changed = changed.take().or(Some(at));
        }
    })?;
    match changed {
        Some(at) => Err(TreeError::Changed { path: index.entries()[at].path.clone() }),
        None => Ok(LayerId::new(hasher.finish())),
    }
}

/// Makes `layer.tar.zst` unless one that is whole stands there; returns whether it was made.
pub fn pack_missing(store: &Store, permission: &SharedLock, id: &LayerId) -> Result<bool, FormError> {
    if store.packed(id).exists() && packed_id(store, id).is_ok_and(|found| found == *id) {
        return Ok(false);
    }
    pack(store, permission, id)?;
    Ok(true)
}

/// Makes `tree/` and `index` from `layer.tar.zst`, replacing those that stand there.
pub fn unpack(store: &Store, _permission: &SharedLock, id: &LayerId) -> Result<(), FormError> {
    let (stage, text) = staged(store, id)?;
    store.sync()?;
    place(store, id, &stage, &text)
}

/// Returns whether a layer has no tree but an archive to make it of.
pub fn is_cold(store: &Store, id: &LayerId) -> bool {
    !store.tree(id).exists() && store.packed(id).exists()
}

/// Makes the trees of those layers that are cold, and returns how many those were; tells how many layers are done.
///
/// Bytes reach the disk before a tree gets its name, so after a power cut a tree that stands is whole.
pub fn warm(store: &Store, permission: &SharedLock, ids: &[LayerId], progress: &(dyn Fn(u64) + Sync)) -> Result<usize, FormError> {
    /// Each stage holds directories open, of which a process may have about a thousand.
    const AT_ONCE: usize = 32;
    if !ids.iter().any(|id| is_cold(store, id)) {
        return Ok(0);
    }
    let _archives = archives(store, permission)?;
    let cold: Vec<LayerId> = ids.iter().filter(|id| is_cold(store, id)).copied().collect();
    let mut done = 0;
    for some in cold.chunks(AT_ONCE) {
        let stages = parallel::try_map(some, |id| Ok::<_, FormError>((*id, staged(store, id)?)))?;
        store.sync()?;
        for (id, (stage, text)) in &stages {
            place(store, id, stage, text)?;
        }
        done += some.len() as u64;
        progress(done);
    }
    Ok(cold.len())
}

/// Removes the archives of those layers that have their tree, which must outlive a power cut already.
pub fn drop_archives(store: &Store, permission: &SharedLock, ids: &[LayerId]) -> Result<(), PathError> {
    let _archives = archives(store, permission)?;
    for id in ids.iter().filter(|id| store.tree(id).exists()) {
        let path = store.packed(id);
        if_present(fs::remove_file(&path).map_err(at("remove", &path)))?;
    }
    Ok(())
}

/// Waits until nobody else turns archives into trees or removes them: one must not go while another reads it.
fn archives(store: &Store, permission: &SharedLock) -> Result<BuildLock, PathError> {
    lock::build(store, permission, &Digest::of(b"archives"))
}

/// Drops composed roots, and the trees of layers whose archive stands; returns the disk space this frees.
///
/// Roots go first, because they can be composed anew of trees and archives. The lock is given back before anything is
/// deleted.
pub fn cool(store: &Store, permission: ExclusiveLock, roots: &[PathBuf], ids: &[LayerId]) -> Result<u64, FormError> {
    let scratch = Scratch::new(store)?;
    let trees = ids.iter().filter(|id| store.packed(id).exists()).map(|id| store.tree(id));
    let mut ledger = Ledger::default();
    let mut graves = Vec::new();
    for (number, path) in roots.iter().cloned().chain(trees).enumerate() {
        let grave = scratch.dir().join(number.to_string());
        if path.exists() {
            keeping_time(&path, || fs::rename(&path, &grave))?;
            graves.push(grave);
        }
    }
    drop(permission);
    let freed: Result<Vec<u64>, PathError> = graves.iter().map(|grave| Ok(ledger.add(grave)?.freed)).collect();
    Ok(freed?.into_iter().sum())
}

/// Renames something into or out of a directory whose time says when it was used last, which this is not.
fn keeping_time(path: &Path, rename: impl FnOnce() -> io::Result<()>) -> Result<(), PathError> {
    let dir = path.parent().expect("forms lie in a layer's or image's directory");
    let used = fs::metadata(dir).and_then(|found| found.modified()).map_err(at("inspect", dir))?;
    rename().map_err(at("rename", path))?;
    File::open(dir).and_then(|dir| dir.set_modified(used)).map_err(at("set the time of", dir))
}

/// Reads `layer.tar.zst` into a stage, and checks that it is the layer.
fn staged(store: &Store, id: &LayerId) -> Result<(Stage, Vec<u8>), FormError> {
    let path = store.packed(id);
    let limit = layer::read_index(store, id).map_or(MAX_UNPACKED_BYTES, |index| index.bytes());
    let file = File::open(&path).map_err(at("open", &path))?;
    let mut decoder = zstd::Decoder::new(file).map_err(at("read", &path))?;
    // A layer's parents may all lie in lower layers; none may be added to it here.
    let mut stage = store.stage_with(Parents::OnDiskOnly)?;
    let read = archive::read(&mut decoder, &mut |item, contents| add(&mut stage, item, contents, limit));
    read.map_err(|error| match error {
        ReadError::Archive(source) => FormError::Archive { path: path.clone(), source },
        ReadError::Stage(error) => FormError::Stage(error),
    })?;
    stage.settle_dirs()?;
    let (found, index) = stage.seal()?;
    if found != *id {
        return Err(FormError::Identity { path, id: *id, found });
    }
    Ok((stage, index.to_text()))
}

/// Moves a staged tree to where the layer's is.
fn place(store: &Store, id: &LayerId, stage: &Stage, text: &[u8]) -> Result<(), FormError> {
    if !fs::read(store.index(id)).is_ok_and(|old| old == text) {
        durable::replace(&store.index(id), text)?;
    }
    let (from, to) = (stage.scratch.dir().join(TREE), store.tree(id));
    match rename(&from, &to, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => rename(&from, &to, RenameFlags::EXCHANGE),
        done => done,
    }
    .map_err(at("replace", &to))?;
    Ok(())
}

/// Returns the name of the layer inside `layer.tar.zst`.
pub(crate) fn packed_id(store: &Store, id: &LayerId) -> Result<LayerId, PathError> {
    let path = store.packed(id);
    let file = File::open(&path).map_err(at("open", &path))?;
    let mut hasher = Hasher::new();
    let hashed = zstd::Decoder::new(file).and_then(|mut decoder| io::copy(&mut decoder, &mut hasher));
    hashed.map_err(at("read", &path))?;
    let digest: Digest = hasher.finish();
    Ok(LayerId::new(digest))
}

enum ReadError {
    Archive(ArchiveError),
    Stage(StageError),
}

impl From<ArchiveError> for ReadError {
    fn from(error: ArchiveError) -> Self {
        ReadError::Archive(error)
    }
}

fn add(stage: &mut Stage, item: Item, contents: &mut dyn Read, limit: u64) -> Result<(), ReadError> {
    let added = match item {
        Item::Dir(path, meta) => stage.add_dir(&path, &meta),
        Item::Opaque(path) => stage.set_opaque(&path),
        Item::File(path, meta, _) => {
            let left = limit.saturating_sub(stage.bytes());
            stage.add_file(&path, &meta, contents, left)
        }
        Item::Symlink(path, meta, target) => stage.add_symlink(&path, &meta, &target),
        Item::Hardlink(path, _, to) => stage.add_hardlink(&path, &to),
        Item::Whiteout(path) => stage.add_whiteout(&path),
    };
    added.map_err(ReadError::Stage)
}
