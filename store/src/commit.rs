//! Commit, the only way to add a layer: stage -> normalised entries -> index and digest -> rename.
//!
//! Each file is read once; its bytes feed its own digest and that of the canonical tar.
//!
//! **Power loss.** Nothing is synced here, because hundreds of layers are committed together. A layer is trusted only if a realisation or a
//! root names it. The writer of such a name calls [`Store::sync`] first, so the bytes are on disk before the name. An unnamed layer may be
//! broken after a power loss; a later commit of the same layer compares the two and replaces a broken one.

use crate::archive::{self, CHUNK_BYTES, unknown_digest};
use crate::digest::{Digest, Hasher, LayerId};
use crate::draft::entries_of;
use crate::entry::{Entry, Node};
use crate::flock::SharedLock;
use crate::index::{Index, IndexError};
use crate::layer;
use crate::layout::{INDEX, MANIFEST, Store, TREE};
use crate::manifest::{Manifest, Record};
use crate::openat::Beneath;
use crate::path::LayerPath;
use crate::path_error::{PathError, at};
use crate::private;
use crate::stage::Stage;
use crate::system;
use rustix::fs::{self, FileType, RenameFlags};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::path::Path;

/// Result of a commit.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The id of the layer.
    pub id: LayerId,
    /// Its entries.
    pub index: Index,
    /// The sum of its file sizes.
    pub bytes: u64,
    /// True if the store did not have the layer before.
    pub fresh: bool,
}

/// Reason why a stage cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The tree could not be read back.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The entries are inconsistent.
    #[error("the staged entries are not a valid layer")]
    Index(#[from] IndexError),
}

/// Reason why a tree does not match its entries.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The length of a file differs from its entry.
    #[error("the length of {path} changed from {expected} bytes")]
    Length {
        /// The file.
        path: LayerPath,
        /// The length according to the entry.
        expected: u64,
    },
    /// The contents of a file differ from its entry.
    #[error("{path} was changed")]
    Changed {
        /// The file.
        path: LayerPath,
    },
    /// The entries are those of another layer.
    #[error("it is the tree of layer {found}")]
    Other {
        /// The layer of the entries.
        found: LayerId,
    },
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Write(#[from] io::Error),
}

impl Store {
    /// Syncs all commits so far to disk.
    pub fn sync(&self) -> Result<(), PathError> {
        system::sync_file_system(&self.layers())
    }
}

impl Stage {
    /// Makes the staged entries a layer, unless the store has it already.
    pub fn commit(mut self, record: &Record, permission: &SharedLock) -> Result<Committed, CommitError> {
        let (id, index) = self.seal()?;
        self.place(id, index, record, permission)
    }

    /// Makes the staged entries the layer `id` with this index, which the caller has verified.
    pub(crate) fn place(mut self, id: LayerId, index: Index, record: &Record, _permission: &SharedLock) -> Result<Committed, CommitError> {
        self.set_dir_times()?;
        let bytes = index.bytes();
        let text = index.to_text();
        let manifest = Manifest { layer: id, entries: index.entries().len() as u64, bytes, record: record.clone() };
        let dir = self.scratch.dir();
        for (name, bytes) in [(INDEX, text.as_slice()), (MANIFEST, manifest.to_text().as_bytes())] {
            let path = dir.join(name);
            private::write(&path, bytes).map_err(at("write", &path))?;
        }
        let home = self.store.layer(&id);
        let fresh = match rename(dir, &home, RenameFlags::NOREPLACE) {
            Ok(()) => true,
            Err(Errno::EXIST) => {
                if !is_intact(&home, &text, &index) {
                    // Realisations may name the layer that is replaced, so our bytes must be on the disk first.
                    self.store.sync()?;
                    // The broken layer moves into our scratch directory and is removed with it.
                    rename(dir, &home, RenameFlags::EXCHANGE).map_err(at("replace", &home))?;
                }
                false
            }
            Err(error) => return Err(at("move the layer to", &home)(error).into()),
        };
        Ok(Committed { id, index, bytes, fresh })
    }

    /// Reads all files; returns the layer's id and entries.
    pub(crate) fn seal(&mut self) -> Result<(LayerId, Index), CommitError> {
        let mut entries = entries_of(&self.drafts);
        let id = digest_tree(&mut self.beneath, &mut entries)?;
        Ok((id, Index::new(entries)?))
    }
}

/// Reads every file of a tree once, sets the entries' digests and returns the layer's id.
pub(crate) fn digest_tree(tree: &mut Beneath, entries: &mut [Entry]) -> Result<LayerId, TreeError> {
    let mut digests = vec![unknown_digest(); entries.len()];
    let mut hasher = Hasher::new();
    write_tree(tree, entries, &mut hasher, Some(&mut |at, digest| digests[at] = digest))?;
    for (entry, found) in entries.iter_mut().zip(digests) {
        if let Node::File { digest, .. } = &mut entry.node {
            *digest = found;
        }
    }
    Ok(LayerId::new(hasher.finish()))
}

/// Writes the canonical tar of a tree; calls `seen`, if there is one, with each file's entry number and digest.
pub(crate) fn write_tree<W: Write>(
    tree: &mut Beneath,
    entries: &[Entry],
    out: &mut W,
    mut seen: Option<&mut dyn FnMut(usize, Digest)>,
) -> Result<(), TreeError> {
    let mut buffer = vec![0; CHUNK_BYTES];
    archive::write(entries, out, &mut |at_entry, out: &mut W| {
        let Entry { path, node: Node::File { size, .. }, .. } = &entries[at_entry] else {
            return Ok(());
        };
        let mut file = tree.file(path).map_err(at("open", &tree.host(path)))?;
        let mut hasher = seen.is_some().then(Hasher::new);
        let mut left = *size;
        loop {
            let got = match file.read(&mut buffer) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(at("read", &tree.host(path))(error).into()),
            };
            if got as u64 > left || (got == 0 && left > 0) {
                return Err(TreeError::Length { path: path.clone(), expected: *size });
            }
            if got == 0 {
                if let (Some(seen), Some(hasher)) = (&mut seen, hasher) {
                    seen(at_entry, hasher.finish());
                }
                return Ok(());
            }
            left -= got as u64;
            if let Some(hasher) = &mut hasher {
                hasher.update(&buffer[..got]);
            }
            out.write_all(&buffer[..got])?;
        }
    })
}

/// Returns the layer without entries, if the store has it.
pub fn empty_layer(store: &Store) -> Option<LayerId> {
    let mut hasher = Hasher::new();
    archive::write::<_, io::Error>(&[], &mut hasher, &mut |_, _| Ok(())).ok()?;
    Some(LayerId::new(hasher.finish())).filter(|id| is_whole(store, id))
}

/// Returns true if the store has a layer with all its entries. After a power loss, a layer that nothing named yet may lack bytes.
pub fn is_whole(store: &Store, id: &LayerId) -> bool {
    if !store.tree(id).exists() && store.packed(id).exists() {
        // An archive gets its name after its bytes are on the disk.
        return true;
    }
    let found = layer::read_index(store, id).map(|index| is_intact(&store.layer(id), &index.to_text(), &index));
    found.unwrap_or(false) && layer::read_manifest(store, id).is_ok()
}

/// Checks that the layer in `home` has the same index, and that every entry exists with its size.
fn is_intact(home: &Path, text: &[u8], index: &Index) -> bool {
    let same_index = std::fs::read(home.join(INDEX)).is_ok_and(|found| found == text);
    let Ok(mut tree) = Beneath::open(&home.join(TREE)) else {
        return false;
    };
    let has_manifest = std::fs::metadata(home.join(MANIFEST)).is_ok_and(|found| found.len() > 0);
    same_index && has_manifest && index.entries().iter().all(|entry| is_unchanged(&mut tree, entry))
}

fn is_unchanged(tree: &mut Beneath, entry: &Entry) -> bool {
    let expected = match entry.node {
        Node::Dir { .. } => FileType::Directory,
        Node::File { .. } | Node::Hardlink { .. } => FileType::RegularFile,
        Node::Symlink { .. } => FileType::Symlink,
        Node::Whiteout => return true,
    };
    tree.stat(&entry.path).is_ok_and(|stat| {
        let same_size = match entry.node {
            Node::File { size, .. } => u64::try_from(stat.st_size) == Ok(size),
            Node::Dir { .. } | Node::Hardlink { .. } | Node::Symlink { .. } | Node::Whiteout => true,
        };
        same_size && FileType::from_raw_mode(stat.st_mode) == expected
    })
}

/// Renames with flags; both paths are absolute or relative to the working directory.
pub(crate) fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    fs::renameat_with(fs::CWD, from, fs::CWD, to, flags)
}
