//! The store's directory and every path inside it.
//!
//! ```text
//! baked/<LayerId>/      index, manifest.toml and the forms tree/ and layer.tar.zst
//! images/<ImageId>/     composed roots
//! realisations/<key>    the layer of each derivation
//! roots/<kind>/<name>   GC roots
//! stage/                unfinished work, each piece with a locked <name>.lock
//! locks/                lock files: store, build-<key>, image-<ImageId>
//! ```

use crate::digest::{Digest, LayerId};
use crate::path_error::PathError;
use crate::private::{self, make_dir};
use crate::system;
use std::path::{Path, PathBuf};

/// A handle to a store directory; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store in `root` and makes missing directories; the parent of `root` must exist.
    ///
    /// `root` must belong to the caller. Directories are made with mode 0700: a layer may hold setuid files, which other users of the host
    /// must not reach.
    pub fn open(root: &Path) -> Result<Store, PathError> {
        private::open_home(root)?;
        let store = Store { root: root.to_path_buf() };
        for dir in [store.layers(), store.images(), store.realisations(), store.roots(), store.locks()] {
            make_dir(&dir)?;
        }
        make_workplace(&store.stages())?;
        Ok(store)
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns true if the store has the layer, in any form.
    pub fn has(&self, id: &LayerId) -> bool {
        self.index(id).exists()
    }

    /// Returns the directory of all layers.
    pub fn layers(&self) -> PathBuf {
        self.root.join("baked")
    }

    /// Returns the directory of a layer.
    pub fn layer(&self, id: &LayerId) -> PathBuf {
        self.layers().join(id.to_string())
    }

    /// Returns a layer's directory tree.
    pub fn tree(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join(TREE)
    }

    /// Returns a layer's list of entries.
    pub fn index(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join(INDEX)
    }

    /// Returns a layer's manifest.
    pub fn manifest(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join(MANIFEST)
    }

    /// Returns a layer's compressed archive.
    pub fn packed(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join(PACKED)
    }

    /// Returns the directory of all composed images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Returns the directory of an image.
    pub fn image(&self, id: &Digest) -> PathBuf {
        self.images().join(id.to_string())
    }

    /// Returns the directory of all realisations.
    pub fn realisations(&self) -> PathBuf {
        self.root.join("realisations")
    }

    /// Returns the realisation of a derivation.
    pub fn realisation(&self, key: &Digest) -> PathBuf {
        self.realisations().join(key.to_string())
    }

    /// Returns the directory of all roots.
    pub fn roots(&self) -> PathBuf {
        self.root.join("roots")
    }

    /// Returns the directory of unfinished work.
    pub fn stages(&self) -> PathBuf {
        self.root.join("stage")
    }

    /// Returns the directory of lock files.
    pub fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// Returns the store's lock file: readers and writers share the lock, gc takes it exclusively.
    pub fn store_lock(&self) -> PathBuf {
        self.locks().join("store")
    }

    /// Returns the lock file for building a derivation.
    pub fn build_lock(&self, key: &Digest) -> PathBuf {
        self.locks().join(format!("{BUILD_LOCK_PREFIX}{key}"))
    }

    /// Returns the lock file that protects a running image from gc.
    pub fn image_lock(&self, image: &Digest) -> PathBuf {
        self.locks().join(format!("{IMAGE_LOCK_PREFIX}{image}"))
    }
}

/// The name of a layer's tree.
pub(crate) const TREE: &str = "tree";
pub(crate) const INDEX: &str = "index";
pub(crate) const MANIFEST: &str = "manifest.toml";
pub(crate) const PACKED: &str = "layer.tar.zst";
/// Prefix of the names of build locks.
pub(crate) const BUILD_LOCK_PREFIX: &str = "build-";
/// Prefix of the names of image locks.
pub(crate) const IMAGE_LOCK_PREFIX: &str = "image-";

/// Makes a directory for subdirectories with many short-lived files; an existing one is not changed.
///
/// ext4 allocates a directory near its parent, and new files near their directory. For each it searches linearly past all nearby inodes
/// that were freed in the last minute: after a large removal this doubles the time of a build. Where the file system supports it, a flag
/// spreads the subdirectories over the disk instead.
pub fn make_workplace(dir: &Path) -> Result<(), PathError> {
    if !dir.exists() {
        make_dir(dir)?;
        system::spread(dir);
    }
    Ok(())
}
