//! Conversion between the two forms of a layer, `tree/` and `layer.tar.zst`.
//!
//! Compressed bytes do not identify a layer: the LayerId is that of the tar inside, and both directions check it. A layer with an archive
//! but no tree is *cold*. Before one form is removed, the other is complete and synced.

use crate::archive::{self, ArchiveError, Item};
use crate::commit::{CommitError, TreeError, rename, write_tree};
use crate::digest::{Digest, Hasher, HashingReader, HashingWriter, LayerId};
use crate::draft::entries_of;
use crate::durable;
use crate::entry::Node;
use crate::flock::{self, BuildLock, ExclusiveLock, SharedLock};
use crate::index::Index;
use crate::layer::{self, LayerError};
use crate::layout::{Store, TREE};
use crate::openat::Beneath;
use crate::parallel;
use crate::path_error::{PathError, at, if_present};
use crate::private;
use crate::scratch::Scratch;
use crate::stage::{Parents, Stage, StageError};
use crate::usage::LinkCounts;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Compression level: as small as gzip -9 in a fraction of the time. Higher levels cost much more time than they save space.
const ZSTD_LEVEL: i32 = 3;
/// Limit of the bytes unpacked from an archive without an index; 64 GiB is arbitrary.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;

/// Reason why a form cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The layer's index is missing or broken.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The tree cannot be read, or differs from the index.
    #[error("cannot pack layer {id}")]
    Tree {
        /// The layer.
        id: LayerId,
        /// The cause.
        #[source]
        source: TreeError,
    },
    /// The archive is not a canonical archive.
    #[error("{} is broken", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The cause.
        #[source]
        source: ArchiveError,
    },
    /// The entries could not be written.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The entries of the archive do not make a layer.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The bytes belong to another layer.
    #[error("{} holds layer {found}, not {id}", path.display())]
    Identity {
        /// The file or tree that was read.
        path: PathBuf,
        /// The expected layer.
        id: LayerId,
        /// The layer computed from the bytes.
        found: LayerId,
    },
}

/// Returns an encoder of zstd whose bytes depend on its input alone.
pub fn zstd_encoder<W: Write>(out: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    // One worker gives the same bytes as many, but other bytes than the single-threaded mode: always use one.
    encoder.multithread(1)?;
    Ok(encoder)
}

/// Makes `layer.tar.zst` from `tree/`.
pub fn pack(store: &Store, _permission: &SharedLock, id: &LayerId) -> Result<(), FormError> {
    let index = layer::read_index(store, id)?;
    let tree = store.tree(id);
    let mut beneath = Beneath::open(&tree).map_err(at("open", &tree))?;
    let scratch = Scratch::new(store)?;
    let temp = scratch.dir().join("packed");
    let file = private::create_new(&temp).map_err(at("create", &temp))?;
    let written = (|| {
        let mut out = HashingWriter::new(zstd_encoder(&file)?);
        write_tree(&mut beneath, index.entries(), &mut out, None)?;
        let (digest, _, encoder) = out.finish();
        encoder.finish()?;
        Ok(digest)
    })();
    let found = LayerId::new(written.map_err(|source| FormError::Tree { id: *id, source })?);
    if found != *id {
        return Err(FormError::Identity { path: tree, id: *id, found });
    }
    // The tree may be removed after the rename, so the archive must be synced first.
    file.sync_all().map_err(at("sync", &temp))?;
    let packed = store.packed(id);
    keeping_time(&packed, || fs::rename(&temp, &packed))?;
    Ok(durable::sync_dir(&store.layer(id))?)
}

/// Writes the canonical tar of the layer `id`, with this tree and index. The id covers every byte, so the files are not hashed one by one.
pub fn write_layer<W: Write>(tree: &Path, index: &Index, id: LayerId, out: &mut W) -> Result<(), TreeError> {
    let mut beneath = Beneath::open(tree).map_err(at("open", tree))?;
    let mut both = HashingWriter::new(out);
    write_tree(&mut beneath, index.entries(), &mut both, None)?;
    if LayerId::new(both.finish().0) == id {
        return Ok(());
    }
    // Finds the file. If each one is as in the index, the index belongs to another layer.
    let found = write_archive(tree, index, &mut io::sink())?;
    Err(TreeError::Other { found })
}

/// Writes the canonical tar of a tree that matches `index`, such as a composed root; returns its id as a layer.
pub fn write_archive<W: Write>(tree: &Path, index: &Index, out: &mut W) -> Result<LayerId, TreeError> {
    let mut beneath = Beneath::open(tree).map_err(at("open", tree))?;
    let mut changed = None;
    let mut both = HashingWriter::new(out);
    let mut compare = |at: usize, found| {
        if !matches!(&index.entries()[at].node, Node::File { digest, .. } if *digest == found) {
            changed = changed.take().or(Some(at));
        }
    };
    write_tree(&mut beneath, index.entries(), &mut both, Some(&mut compare))?;
    match changed {
        Some(at) => Err(TreeError::Changed { path: index.entries()[at].path.clone() }),
        None => Ok(LayerId::new(both.finish().0)),
    }
}

/// Makes `layer.tar.zst` unless an intact one exists; returns whether it was made.
pub fn pack_missing(store: &Store, permission: &SharedLock, id: &LayerId) -> Result<bool, FormError> {
    if store.packed(id).exists() && packed_id(store, id).is_ok_and(|found| found == *id) {
        return Ok(false);
    }
    pack(store, permission, id)?;
    Ok(true)
}

/// Makes `tree/` and `index` from `layer.tar.zst`, and replaces existing ones.
pub fn unpack(store: &Store, _permission: &SharedLock, id: &LayerId) -> Result<(), FormError> {
    let (stage, text) = staged(store, id)?;
    store.sync()?;
    place(store, id, &stage, &text)
}

/// Returns true if a layer has an archive but no tree.
pub fn is_cold(store: &Store, id: &LayerId) -> bool {
    !store.tree(id).exists() && store.packed(id).exists()
}

/// Unpacks the trees of all cold layers of `ids` and returns their number; `progress` gets the number of finished layers.
///
/// Bytes are synced before a tree gets its name, so a tree that exists after a power loss is complete.
pub fn warm(store: &Store, permission: &SharedLock, ids: &[LayerId], progress: &(dyn Fn(u64) + Sync)) -> Result<usize, FormError> {
    /// Each stage holds open directories; the limit of file descriptors is about a thousand.
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

/// Removes the archives of all layers of `ids` that have a tree, which must be synced already.
pub fn drop_archives(store: &Store, permission: &SharedLock, ids: &[LayerId]) -> Result<(), PathError> {
    let _archives = archives(store, permission)?;
    for id in ids.iter().filter(|id| store.tree(id).exists()) {
        let path = store.packed(id);
        if_present(fs::remove_file(&path).map_err(at("remove", &path)))?;
    }
    Ok(())
}

/// Locks the conversion of archives: one must not be removed while another process reads it.
fn archives(store: &Store, permission: &SharedLock) -> Result<BuildLock, PathError> {
    flock::build(store, permission, &Digest::of(b"archives"))
}

/// Drops composed roots, and the trees of layers that have an archive; returns the freed disk space.
///
/// Roots are dropped first, because they can be composed again from trees and archives. The lock is released before the deletion.
pub fn cool(store: &Store, permission: ExclusiveLock, roots: &[PathBuf], ids: &[LayerId]) -> Result<u64, FormError> {
    let scratch = Scratch::new(store)?;
    let trees = ids.iter().filter(|id| store.packed(id).exists()).map(|id| store.tree(id));
    let mut ledger = LinkCounts::default();
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

/// Renames into or out of a directory without changing its mtime, which records the last use.
fn keeping_time(path: &Path, rename: impl FnOnce() -> io::Result<()>) -> Result<(), PathError> {
    let dir = path.parent().expect("forms lie in a layer's or image's directory");
    let used = fs::metadata(dir).and_then(|found| found.modified()).map_err(at("inspect", dir))?;
    rename().map_err(at("rename", path))?;
    File::open(dir).and_then(|dir| dir.set_modified(used)).map_err(at("set the time of", dir))
}

/// Reads `layer.tar.zst` into a stage and checks the layer's id.
fn staged(store: &Store, id: &LayerId) -> Result<(Stage, Vec<u8>), FormError> {
    let path = store.packed(id);
    let limit = layer::read_index(store, id).map_or(MAX_UNPACKED_BYTES, |index| index.bytes());
    let file = File::open(&path).map_err(at("open", &path))?;
    let mut decoder = zstd::Decoder::new(file).map_err(at("read", &path))?;
    // Parents may be entries of lower layers only; none may be added here.
    let mut stage = store.stage_with(Parents::OnDiskOnly)?;
    let index = read_layer(&mut stage, &mut decoder, id, limit, &path)?;
    stage.set_dir_times()?;
    Ok((stage, index.to_text()))
}

/// Reads the archive of layer `id` into an empty stage, and returns the layer's index; `name` is for messages.
///
/// Each byte is hashed once for its file and once for the layer, while it is written to the disk; nothing is read back. For that, the staged
/// entries must have the headers of the archive, in its order. Then they and the digests of the files determine every byte of it.
pub(crate) fn read_layer(stage: &mut Stage, from: &mut dyn Read, id: &LayerId, limit: u64, name: &Path) -> Result<Index, FormError> {
    let mut from = HashingReader::new(from);
    let mut digests = BTreeMap::new();
    let read = archive::read(&mut from, &mut |item, contents| {
        let path = if let Item::File(path, ..) = &item { Some(path.clone()) } else { None };
        let mut contents = HashingReader::new(contents);
        add(stage, item, &mut contents, limit)?;
        digests.extend(path.map(|path| (path, contents.finish().0)));
        Ok(())
    });
    let outline = read.map_err(|error| match error {
        ReadError::Archive(source) => FormError::Archive { path: name.to_owned(), source },
        ReadError::Stage(error) => FormError::Stage(error),
    })?;
    let found = LayerId::new(from.finish().0);
    let other = |found| FormError::Identity { path: name.to_owned(), id: *id, found };
    if found != *id {
        return Err(other(found));
    }
    let mut entries = entries_of(&stage.drafts);
    if archive::outline(&entries) != outline {
        // The bytes are those of the id, but are not the encoding of any layer.
        return Err(other(stage.seal()?.0));
    }
    for entry in &mut entries {
        if let Node::File { digest, .. } = &mut entry.node {
            *digest = digests.get(&entry.path).copied().ok_or_else(|| other(found))?;
        }
    }
    Ok(Index::new(entries).map_err(CommitError::from)?)
}

/// Moves a staged tree to the layer's path.
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

/// Returns the id of the layer inside `layer.tar.zst`.
pub(crate) fn packed_id(store: &Store, id: &LayerId) -> Result<LayerId, PathError> {
    let path = store.packed(id);
    let file = File::open(&path).map_err(at("open", &path))?;
    let mut hasher = Hasher::new();
    let hashed = zstd::Decoder::new(file).and_then(|mut decoder| io::copy(&mut decoder, &mut hasher));
    hashed.map_err(at("read", &path))?;
    let digest: Digest = hasher.finish();
    Ok(LayerId::new(digest))
}

/// Reason why an archive cannot be read into a stage.
pub(crate) enum ReadError {
    Archive(ArchiveError),
    Stage(StageError),
}

impl From<ArchiveError> for ReadError {
    fn from(error: ArchiveError) -> Self {
        ReadError::Archive(error)
    }
}

/// Adds one item of an archive to a stage.
pub(crate) fn add(stage: &mut Stage, item: Item, contents: &mut dyn Read, limit: u64) -> Result<(), ReadError> {
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
