//! GC roots: names for images and layers that gc must keep. One small file each under `roots/<kind>/<name>`.
//!
//! ```text
//! silo-root 1
//! image <hex>
//! layer <hex>
//! ```
//!
//! Lines are sorted. An unreadable root is an error and never treated as missing, because gc would remove its images and layers.

use crate::digest::{Digest, DigestError, LayerId};
use crate::durable::{self, TEMP_PREFIX};
use crate::flock::SharedLock;
use crate::layout::Store;
use crate::path_error::{PathError, at, if_present};
use crate::private::make_dir;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const HEADER: &str = "silo-root 1\n";

/// The objects that one root keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Root {
    /// Composed images.
    pub images: BTreeSet<Digest>,
    /// Layers.
    pub layers: BTreeSet<LayerId>,
}

/// The name of a root: a kind ("tool", "project") and a name, both plain file names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootName {
    kind: String,
    name: String,
}

/// Reason why a root cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A name that is not a plain file name.
    #[error("{text:?} cannot name a root (letters, digits and ._@+- only, not starting with a dot, at most 128 bytes)")]
    Name {
        /// The rejected name.
        text: String,
    },
    /// The file is malformed.
    #[error("{} is not a GC root that this version can read", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line with a malformed digest, if that is the fault.
        #[source]
        source: Option<DigestError>,
    },
}

impl RootName {
    /// Checks a kind and a name.
    pub fn new(kind: &str, name: &str) -> Result<RootName, RootError> {
        for text in [kind, name] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte);
            if text.is_empty() || text.len() > 128 || text.starts_with('.') || !text.bytes().all(plain) {
                return Err(RootError::Name { text: text.chars().take(200).collect() });
            }
        }
        Ok(RootName { kind: kind.into(), name: name.into() })
    }

    /// Returns the kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, store: &Store) -> PathBuf {
        store.roots().join(&self.kind).join(&self.name)
    }
}

/// Creates or replaces a root.
pub fn put(store: &Store, _permission: &SharedLock, name: &RootName, root: &Root) -> Result<(), RootError> {
    make_dir(&store.roots().join(&name.kind))?;
    let mut text = String::from(HEADER);
    // Writing to a string cannot fail.
    for image in &root.images {
        let _ = writeln!(text, "image {image}");
    }
    for layer in &root.layers {
        let _ = writeln!(text, "layer {layer}");
    }
    Ok(durable::replace(&name.path(store), text.as_bytes())?)
}

/// Returns a root, or `None` if there is none of this name.
pub fn get(store: &Store, name: &RootName) -> Result<Option<Root>, RootError> {
    let path = name.path(store);
    match if_present(fs::read(&path).map_err(at("read", &path)))? {
        Some(bytes) => parse(&path, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Removes a root; returns whether it existed.
pub fn remove(store: &Store, _permission: &SharedLock, name: &RootName) -> Result<bool, RootError> {
    let path = name.path(store);
    let was = if_present(fs::remove_file(&path).map_err(at("remove", &path)))?.is_some();
    if was {
        durable::sync_dir(&store.roots().join(&name.kind))?;
    }
    Ok(was)
}

/// Returns all roots, sorted by kind and name.
pub fn list(store: &Store) -> Result<Vec<(RootName, Root)>, RootError> {
    let mut found = Vec::new();
    for kind in names(&store.roots())? {
        for name in names(&store.roots().join(&kind))? {
            let name = RootName::new(&kind, &name)?;
            // A root removed between listing and reading no longer counts.
            if let Some(root) = get(store, &name)? {
                found.push((name, root));
            }
        }
    }
    Ok(found)
}

/// Returns the directories of the roots, one for each kind.
pub(crate) fn kinds(store: &Store) -> Result<Vec<PathBuf>, RootError> {
    Ok(names(&store.roots())?.iter().map(|kind| store.roots().join(kind)).collect())
}

fn names(dir: &Path) -> Result<Vec<String>, RootError> {
    let mut names = Vec::new();
    for item in fs::read_dir(dir).map_err(at("list", dir))? {
        let name = item.map_err(at("list", dir))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(TEMP_PREFIX) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Root, RootError> {
    let broken = |source| RootError::Broken { path: path.to_path_buf(), source };
    let text = std::str::from_utf8(bytes).map_err(|_| broken(None))?;
    let body = text.strip_prefix(HEADER).ok_or_else(|| broken(None))?;
    let mut root = Root::default();
    for line in body.split_inclusive('\n') {
        let line = line.strip_suffix('\n').ok_or_else(|| broken(None))?;
        let fresh = match line.split_once(' ') {
            Some(("image", hex)) => root.images.insert(Digest::parse(hex).map_err(|e| broken(Some(e)))?),
            Some(("layer", hex)) => root.layers.insert(LayerId::parse(hex).map_err(|e| broken(Some(e)))?),
            _ => false,
        };
        if !fresh {
            return Err(broken(None));
        }
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flock;

    #[test]
    fn roots_are_read_back_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let shared = flock::share(&store).unwrap();
        let name = RootName::new("tool", "python@3.13").unwrap();
        let root =
            Root { images: [Digest::of(b"i")].into(), layers: [LayerId::new(Digest::of(b"1")), LayerId::new(Digest::of(b"2"))].into() };
        assert_eq!(get(&store, &name).unwrap(), None);
        put(&store, &shared, &name, &root).unwrap();
        assert_eq!(get(&store, &name).unwrap().as_ref(), Some(&root));
        assert_eq!(list(&store).unwrap(), [(name.clone(), root)]);
        for bad in ["", "silo-root 2\n", "silo-root 1\nlayer x\n", "silo-root 1\nother\n", "silo-root 1\nlayer"] {
            fs::write(name.path(&store), bad).unwrap();
            assert!(list(&store).is_err(), "{bad:?}");
        }
        remove(&store, &shared, &name).unwrap();
        remove(&store, &shared, &name).unwrap();
        assert!(list(&store).unwrap().is_empty());
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "é", &"x".repeat(129)] {
            assert!(RootName::new("tool", bad).is_err() && RootName::new(bad, "x").is_err(), "{bad}");
        }
    }
}
