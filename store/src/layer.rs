//! Reads a layer's index and manifest.

use crate::digest::LayerId;
use crate::index::{Index, IndexError};
use crate::layout::Store;
use crate::manifest::{Manifest, ManifestError};
use crate::path_error::{PathError, at};
use std::fs;
use std::path::PathBuf;

/// Reason why a layer cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The index is broken.
    #[error("{} is broken", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The fault.
        #[source]
        source: IndexError,
    },
    /// The manifest is broken.
    #[error("{} is broken", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// The fault.
        #[source]
        source: ManifestError,
    },
}

/// Returns a layer's entries.
pub fn read_index(store: &Store, id: &LayerId) -> Result<Index, LayerError> {
    let path = store.index(id);
    let text = fs::read(&path).map_err(at("read", &path))?;
    Index::parse(&text).map_err(|source| LayerError::Index { path, source })
}

/// Returns a layer's origin and summary.
pub fn read_manifest(store: &Store, id: &LayerId) -> Result<Manifest, LayerError> {
    let path = store.manifest(id);
    let text = fs::read_to_string(&path).map_err(at("read", &path))?;
    Manifest::parse(&text).map_err(|source| LayerError::Manifest { path, source })
}

/// Returns all layers of the store, sorted.
pub fn list(store: &Store) -> Result<Vec<LayerId>, PathError> {
    let dir = store.layers();
    let mut ids = Vec::new();
    for item in fs::read_dir(&dir).map_err(at("list", &dir))? {
        let name = item.map_err(at("list", &dir))?.file_name();
        // Ignore entries with other names; they are not ours.
        ids.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
    }
    ids.sort();
    Ok(ids)
}
