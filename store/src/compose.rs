//! Composes layers into one tree of hard links to the layers' files, so it uses no space for contents.
//!
//! **Composed files are the layers' inodes.** The tree must be mounted read-only, as an overlay's lower directory. A write through it would
//! change every image with that layer, and `verify` would report it. Where a hard link is impossible (too many links, another file system)
//! the file is copied.

use crate::archive::CHUNK_BYTES;
use crate::commit::rename;
use crate::digest::LayerId;
use crate::entry::{Entry, Kind, Node};
use crate::flock::SharedLock;
use crate::index::Index;
use crate::inode;
use crate::layer::{self, LayerError};
use crate::layout::{Store, TREE};
use crate::merge::{MergeError, Merged, merge, merge_onto};
use crate::normal;
use crate::openat::{Beneath, reached};
use crate::parallel;
use crate::path_error::{PathError, at};
use crate::private::make_dir;
use crate::scratch::Scratch;
use crate::system;
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A composed tree.
#[derive(Clone, Debug)]
pub struct Composed {
    /// The entries of the tree.
    pub merged: Merged,
    /// True if the tree was made now, false if it existed.
    pub fresh: bool,
}

/// Reason why layers cannot be composed.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The layers are inconsistent.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

/// Entries per parallel task: enough to outweigh the overhead, few enough to spread over the threads.
const TASK_ENTRIES: usize = 256;

/// An unused composed tree, to be reused for another one.
#[derive(Clone, Debug)]
pub struct Base {
    /// The path of the tree, on the store's file system.
    pub tree: PathBuf,
    /// Its layers, lowest first.
    pub layers: Vec<LayerId>,
    /// Their merge.
    pub merged: Arc<Merged>,
}

/// Composes the tree of `layers`, lowest first, at `into`; `progress` gets the number of finished entries.
///
/// The tree is made under stage/ and renamed. An existing tree at `into` is kept.
pub fn compose(
    store: &Store,
    _permission: &SharedLock,
    layers: &[LayerId],
    into: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Composed, ComposeError> {
    make(store, (layers, merged(store, layers)?), into, progress, |tree, merged| {
        make_dir(tree)?;
        Ok(vec![false; merged.sources.len()])
    })
}

/// Returns the merge of layers: the entries of the tree that [`compose`] would make.
pub fn merged(store: &Store, layers: &[LayerId]) -> Result<Merged, ComposeError> {
    let indexes: Vec<Index> = parallel::try_map(layers, |id| layer::read_index(store, id))?;
    Ok(merge(&indexes.iter().collect::<Vec<_>>())?)
}

/// Like [`merged`]; reads only the layers that the base lacks, if they are stacked on it.
fn merged_from(store: &Store, base: &Base, layers: &[LayerId]) -> Result<Merged, ComposeError> {
    let Some(above) = layers.strip_prefix(base.layers.as_slice()) else { return merged(store, layers) };
    let indexes: Vec<Index> = parallel::try_map(above, |id| layer::read_index(store, id))?;
    Ok(merge_onto(&base.merged, base.layers.len(), &indexes.iter().collect::<Vec<_>>())?)
}

/// A tree to compose.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its layers, lowest first.
    pub layers: &'a [LayerId],
    /// Its path.
    pub into: &'a Path,
}

/// Makes the same tree as [`compose`] by changing another one, which is consumed; entries of both are kept.
pub fn recompose(
    store: &Store,
    _permission: &SharedLock,
    base: &Base,
    wanted: Wanted<'_>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Composed, ComposeError> {
    let Wanted { layers, into } = wanted;
    make(store, (layers, merged_from(store, base, layers)?), into, progress, |tree, merged| {
        rename(&base.tree, tree, RenameFlags::NOREPLACE).map_err(at("take over", &base.tree))?;
        Ok(strip(tree, (&base.merged, &base.layers), (merged, layers))?)
    })
}

/// Makes a tree unless it exists. `begin` creates its directory and returns which entries are already in it.
fn make(
    store: &Store,
    (layers, merged): (&[LayerId], Merged),
    into: &Path,
    progress: &(dyn Fn(u64) + Sync),
    begin: impl FnOnce(&Path, &Merged) -> Result<Vec<bool>, ComposeError>,
) -> Result<Composed, ComposeError> {
    if into.exists() {
        return Ok(Composed { merged, fresh: false });
    }
    let scratch = Scratch::new(store)?;
    let tree = scratch.dir().join(TREE);
    let standing = begin(&tree, &merged)?;
    let trees: Vec<PathBuf> = layers.iter().map(|id| store.tree(id)).collect();
    fill(&tree, &trees, &merged, &standing, progress)?;
    move_into_place(&tree, into, merged)
}

fn move_into_place(tree: &Path, into: &Path, merged: Merged) -> Result<Composed, ComposeError> {
    if let Some(parent) = into.parent() {
        make_dir(parent)?;
    }
    let fresh = match rename(tree, into, RenameFlags::NOREPLACE) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(at("move the composed tree to", into)(error).into()),
    };
    Ok(Composed { merged, fresh })
}

/// Removes from `tree`, which holds `old`, the entries that differ in `new`. Returns for each entry of `new` whether it was kept.
///
/// A file is kept only if it comes from the same layer, because a composed file shares its layer's inode.
fn strip(tree: &Path, old: (&Merged, &[LayerId]), new: (&Merged, &[LayerId])) -> Result<Vec<bool>, PathError> {
    let layer_of = |(merged, layers): (&Merged, &[LayerId]), at: usize| merged.sources[at].map(|number| layers[number]);
    let mut standing = vec![false; new.0.sources.len()];
    let mut beneath = Beneath::open(tree).map_err(at("open", tree))?;
    // In reverse order, so that a directory is empty before it is removed.
    for (number, entry) in old.0.index.entries().iter().enumerate().rev() {
        let other = new.0.index.entries().binary_search_by(|other| other.path.cmp(&entry.path)).ok();
        let stands = other.filter(|other| match (&entry.node, &new.0.index.entries()[*other]) {
            (Node::Dir { .. }, Entry { node: Node::Dir { .. }, .. }) => true,
            (Node::Symlink { .. }, now) => entry == now,
            (Node::File { .. }, now) => entry == now && layer_of(old, number) == layer_of(new, *other),
            // Hard links are few, and another name may have become the first.
            (Node::Hardlink { .. } | Node::Whiteout | Node::Dir { .. }, _) => false,
        });
        if let Some(other) = stands {
            standing[other] = true;
            continue;
        }
        let flags = if entry.node.kind() == Kind::Dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        let removed = beneath.parent(&entry.path).and_then(|dir| fs::unlinkat(dir, entry.path.name(), flags));
        removed.map_err(at("remove", &beneath.host(&entry.path)))?;
    }
    Ok(standing)
}

impl Store {
    /// Syncs composed trees to disk. Call it before a root names the image.
    pub fn sync_images(&self) -> Result<(), PathError> {
        system::sync_file_system(&self.images())
    }
}

/// Makes all missing entries below `tree`: directories, then files and symlinks, then hard links. The metadata of all directories comes
/// last, because the other steps change it. `trees` are those of the layers.
fn fill(tree: &Path, trees: &[PathBuf], merged: &Merged, standing: &[bool], progress: &(dyn Fn(u64) + Sync)) -> Result<(), PathError> {
    let items: Vec<(&Entry, Option<usize>, bool)> = merged
        .index
        .entries()
        .iter()
        .zip(&merged.sources)
        .zip(standing)
        .map(|((entry, source), stands)| (entry, *source, *stands))
        .collect();
    let of = |kinds: &[Kind], with_standing: bool| -> Vec<(&Entry, Option<usize>, bool)> {
        let wanted = |item: &&(&Entry, Option<usize>, bool)| kinds.contains(&item.0.node.kind()) && (with_standing || !item.2);
        items.iter().filter(wanted).copied().collect()
    };
    let done = AtomicU64::new(items.iter().filter(|(entry, _, stands)| *stands && entry.node.kind() != Kind::Dir).count() as u64);
    let tell = |count: usize| progress(done.fetch_add(count as u64, Ordering::Relaxed) + count as u64);
    let mut beneath = Beneath::open(tree).map_err(at("open", tree))?;
    for (entry, ..) in &of(&[Kind::Dir], false) {
        let made = beneath.parent(&entry.path).and_then(|dir| fs::mkdirat(dir, entry.path.name(), Mode::RWXU));
        made.map_err(at("make the directory", &beneath.host(&entry.path)))?;
    }
    let in_tasks = |items: &[(&Entry, Option<usize>, bool)], act: &Act| {
        let chunks: Vec<_> = items.chunks(TASK_ENTRIES).collect();
        let done = parallel::try_map(&chunks, |chunk| {
            let mut beneath = Beneath::open(tree).map_err(at("open", tree))?;
            for (entry, source, _) in *chunk {
                act(&mut beneath, entry, source.map(|number| trees[number].as_path()))?;
            }
            tell(chunk.len());
            Ok::<(), PathError>(())
        });
        done.map(drop)
    };
    in_tasks(&of(&[Kind::File, Kind::Symlink], false), &place)?;
    in_tasks(&of(&[Kind::Hardlink], false), &|beneath, entry, _| name_again(beneath, tree, entry))?;
    in_tasks(&of(&[Kind::Dir], true), &|beneath, entry, _| {
        let dressed = beneath.dir(entry.path.as_bytes()).and_then(|dir| {
            // A kept directory may have other attributes.
            inode::undress(dir)?;
            inode::dress(dir, Kind::Dir, &entry.meta)
        });
        dressed.map_err(at("set the metadata of", &beneath.host(&entry.path)))
    })?;
    let root = File::open(tree).map_err(at("open", tree))?;
    inode::dress(root.as_fd(), Kind::Dir, &normal::implied_dir()).map_err(at("set the metadata of", tree))
}

type Act<'a> = dyn Fn(&mut Beneath, &Entry, Option<&Path>) -> Result<(), PathError> + Sync + 'a;

/// Makes a file, as a hard link to its layer's tree, or a symlink.
fn place(beneath: &mut Beneath, entry: &Entry, layer: Option<&Path>) -> Result<(), PathError> {
    let path = &entry.path;
    let host = beneath.host(path);
    let dir = beneath.parent(path).map_err(at("open the directory of", &host))?;
    if let Node::Symlink { target } = &entry.node {
        let made = fs::symlinkat(target.as_slice(), dir, path.name()).and_then(|()| {
            let times = inode::times(entry.meta.mtime);
            fs::utimensat(dir, path.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
        });
        return made.map_err(at("make the link", &host));
    }
    let layer = layer.expect("files always come from a layer");
    let named = layer.join(path.as_path());
    let mut long = None;
    let source = reached(layer, path, &mut long).map_err(at("open the directory of", &named))?;
    match fs::linkat(fs::CWD, &source, dir, path.name(), AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::MLINK | Errno::XDEV | Errno::PERM) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let made = fs::openat(dir, path.name(), flags, inode::mode_of(0o600));
            let mut to = File::from(made.map_err(at("create", &host))?);
            let from = File::open(&source).map_err(at("open", &source))?;
            let mut from = io::BufReader::with_capacity(CHUNK_BYTES, from);
            io::copy(&mut from, &mut to).map_err(at("copy", &source))?;
            inode::dress(to.as_fd(), Kind::File, &entry.meta).map_err(at("set the metadata of", &host))
        }
        Err(error) => Err(at("link", &source)(error)),
    }
}

/// Makes a hard link to a file of the composed tree.
fn name_again(beneath: &mut Beneath, tree: &Path, entry: &Entry) -> Result<(), PathError> {
    let Node::Hardlink { to } = &entry.node else {
        return Ok(());
    };
    let mut long = None;
    let file = reached(tree, to, &mut long).map_err(at("open the directory of", &tree.join(to.as_path())))?;
    let dir = beneath.parent(&entry.path);
    let linked = dir.and_then(|dir| fs::linkat(fs::CWD, &file, dir, entry.path.name(), AtFlags::empty()));
    linked.map_err(at("link", &file))
}
