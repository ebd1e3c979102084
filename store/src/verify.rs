//! Verifies the files on disk against the index, and both against the LayerId.

use crate::archive::CHUNK_BYTES;
use crate::commit::{TreeError, digest_tree};
use crate::compression;
use crate::digest::{Digest, Hasher, LayerId};
use crate::entry::{Entry, Node};
use crate::index::Index;
use crate::layer::{self, LayerError};
use crate::layout::Store;
use crate::normal;
use crate::openat::Beneath;
use crate::parallel;
use crate::path::{EscapedBytes, LayerPath, compare};
use crate::path_error::{PathError, at};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// One fault of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path, relative to the tree.
    pub path: Vec<u8>,
    /// The fault.
    pub what: FaultKind,
}

/// Kind of fault at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The path is missing.
    Missing,
    /// The path is not in the index.
    Extra,
    /// The object is of another kind.
    Kind,
    /// The bytes differ.
    Bytes,
    /// The permissions differ.
    Mode,
    /// The target of the symlink differs.
    Target,
    /// A separate file instead of a hard link.
    Link,
    /// Tree and index agree, but do not give this LayerId.
    Identity,
}

/// Reason why a layer cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The index is missing or broken.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The tree changed while it was read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Result of verifying one layer.
pub type Checked = Result<Vec<Difference>, VerifyError>;

/// Verifies many layers in parallel; `progress` gets the size of each finished layer.
pub fn verify_layers(store: &Store, ids: &[LayerId], progress: &(dyn Fn(u64) + Sync)) -> Vec<(LayerId, Checked)> {
    let check = |id: &LayerId| {
        let checked = layer::read_index(store, id).map_err(VerifyError::from).and_then(|index| {
            let differences = verify_with(store, id, &index)?;
            progress(index.bytes());
            Ok(differences)
        });
        (*id, checked)
    };
    parallel::map(ids, check)
}

/// Verifies one layer: its tree and its archive, if present.
pub fn verify_layer(store: &Store, id: &LayerId) -> Checked {
    verify_with(store, id, &layer::read_index(store, id)?)
}

/// Verifies a composed tree against its index.
pub fn verify_root(index: &Index, dir: &Path) -> Checked {
    let mut differences = compare_metadata(index, dir)?;
    differences.extend(changed_bytes(index, dir, &differences)?);
    sort(&mut differences);
    Ok(differences)
}

fn verify_with(store: &Store, id: &LayerId, index: &Index) -> Checked {
    let packed = store.packed(id);
    let mut differences = Vec::new();
    let one = |path: &str, what| Difference { path: path.into(), what };
    if packed.exists() && compression::packed_id(store, id).ok() != Some(*id) {
        differences.push(one("layer.tar.zst", FaultKind::Bytes));
    }
    let dir = store.tree(id);
    if !dir.exists() {
        if !packed.exists() {
            differences.push(one("tree", FaultKind::Missing));
        }
        return Ok(differences);
    }
    let seen = compare_metadata(index, &dir)?;
    if !seen.is_empty() {
        differences.extend(changed_bytes(index, &dir, &seen)?);
        differences.extend(seen);
        sort(&mut differences);
        return Ok(differences);
    }
    let mut beneath = Beneath::open(&dir).map_err(at("open", &dir))?;
    let mut found = index.entries().to_vec();
    let found_id = digest_tree(&mut beneath, &mut found)?;
    for (entry, found) in index.entries().iter().zip(&found) {
        if entry.node != found.node {
            differences.push(Difference { path: entry.path.as_bytes().to_vec(), what: FaultKind::Bytes });
        }
    }
    if found_id != *id && differences.is_empty() {
        differences.push(one("index", FaultKind::Identity));
    }
    Ok(differences)
}

fn sort(differences: &mut [Difference]) {
    differences.sort_by(|a, b| compare(&a.path, &b.path));
}

/// Compares everything except the bytes.
fn compare_metadata(index: &Index, dir: &Path) -> Result<Vec<Difference>, PathError> {
    let mut walk = Walk { index, seen: BTreeSet::new(), differences: Vec::new() };
    walk.dir(dir, &mut Vec::new())?;
    let mut differences = walk.differences;
    for entry in index.entries() {
        if entry.node != Node::Whiteout && !walk.seen.contains(&entry.path) {
            differences.push(Difference { path: entry.path.as_bytes().to_vec(), what: FaultKind::Missing });
        }
    }
    sort(&mut differences);
    Ok(differences)
}

struct Walk<'a> {
    index: &'a Index,
    seen: BTreeSet<LayerPath>,
    differences: Vec<Difference>,
}

impl Walk<'_> {
    fn dir(&mut self, root: &Path, path: &mut Vec<u8>) -> Result<(), PathError> {
        let host = root.join(std::ffi::OsStr::from_bytes(path));
        for item in fs::read_dir(&host).map_err(at("list", &host))? {
            let item = item.map_err(at("list", &host))?;
            let found = item.metadata().map_err(at("inspect", &item.path()))?;
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(item.file_name().as_bytes());
            if self.item(root, path, &found)? {
                self.dir(root, path)?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// Compares one item; returns whether to descend into it.
    fn item(&mut self, root: &Path, raw: &[u8], found: &fs::Metadata) -> Result<bool, PathError> {
        let mut tell = |what| self.differences.push(Difference { path: raw.to_vec(), what });
        let Ok(path) = LayerPath::parse(raw) else {
            tell(FaultKind::Extra);
            return Ok(false);
        };
        let Some(entry) = self.index.get(&path) else {
            // A parent of an entry need not be an entry.
            let on_the_way = found.is_dir() && !self.index.below(&path).is_empty();
            if !on_the_way {
                tell(FaultKind::Extra);
            }
            return Ok(on_the_way);
        };
        let kind = entry.node.kind();
        // Setuid and setgid bits may be missing, if they could not be set.
        let mode = normal::disk_mode(kind, entry.meta.mode);
        let same_mode = found.mode() & 0o777 == mode & 0o777 && found.mode() & 0o7000 & !mode == 0;
        let what = match &entry.node {
            Node::Dir { .. } if !found.is_dir() => Some(FaultKind::Kind),
            Node::File { .. } | Node::Hardlink { .. } if !found.is_file() => Some(FaultKind::Kind),
            Node::Symlink { .. } if !found.is_symlink() => Some(FaultKind::Kind),
            Node::Whiteout => Some(FaultKind::Extra),
            Node::File { size, .. } if found.len() != *size => Some(FaultKind::Bytes),
            Node::Hardlink { to } if !same_file(&root.join(to.as_path()), found) => Some(FaultKind::Link),
            Node::Symlink { target } => {
                let host = root.join(path.as_path());
                let points = fs::read_link(&host).map_err(at("read the link", &host))?;
                (points.as_os_str().as_bytes() != target).then_some(FaultKind::Target)
            }
            Node::Dir { .. } | Node::File { .. } | Node::Hardlink { .. } => (!same_mode).then_some(FaultKind::Mode),
        };
        if let Some(what) = what {
            tell(what);
        }
        self.seen.insert(path);
        Ok(found.is_dir() && kind == crate::entry::Kind::Dir)
    }
}

fn same_file(path: &Path, found: &fs::Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (found.dev(), found.ino()))
}

/// Hashes all files without a known fault.
fn changed_bytes(index: &Index, dir: &Path, known: &[Difference]) -> Result<Vec<Difference>, PathError> {
    const TASK_ENTRIES: usize = 64;
    let known: BTreeSet<&[u8]> = known.iter().map(|difference| difference.path.as_slice()).collect();
    // Files with wrong permissions are already in `known`, and may not be readable.
    let files: Vec<(&Entry, &Digest)> = index
        .entries()
        .iter()
        .filter_map(|entry| match &entry.node {
            Node::File { digest, .. } if !known.contains(entry.path.as_bytes()) => Some((entry, digest)),
            _ => None,
        })
        .collect();
    let chunks: Vec<_> = files.chunks(TASK_ENTRIES).collect();
    let changed = parallel::try_map(&chunks, |chunk| {
        let mut beneath = Beneath::open(dir).map_err(at("open", dir))?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut changed = Vec::new();
        for (entry, digest) in *chunk {
            let host = beneath.host(&entry.path);
            let mut file = beneath.file(&entry.path).map_err(at("open", &host))?;
            if hash(&mut file, &mut buffer).map_err(at("read", &host))? != **digest {
                changed.push(Difference { path: entry.path.as_bytes().to_vec(), what: FaultKind::Bytes });
            }
        }
        Ok::<_, PathError>(changed)
    })?;
    Ok(changed.into_iter().flatten().collect())
}

fn hash(file: &mut fs::File, buffer: &mut [u8]) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(got) => hasher.update(&buffer[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", EscapedBytes(&self.path), self.what)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultKind::Missing => "missing",
            FaultKind::Extra => "not in the index",
            FaultKind::Kind => "wrong type",
            FaultKind::Bytes => "changed bytes",
            FaultKind::Mode => "changed permissions",
            FaultKind::Target => "changed link target",
            FaultKind::Link => "no longer a hard link",
            FaultKind::Identity => "belongs to another layer",
        })
    }
}
