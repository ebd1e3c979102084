//! The store's directory and every path inside it.
//!
//! ```text
//! baked/<LayerId>/      index, manifest.toml and the forms tree/ and layer.tar.zst
//! images/<ImageId>/     composed roots
//! realisations/<key>    which layer a derivation gave
//! roots/<kind>/<name>   what gc must keep
//! stage/                unfinished work, each piece with a locked <name>.lock
//! locks/                store, build-<key>, image-<ImageId>
//! ```

use crate::digest::{Digest, LayerId};
use crate::path_error::PathError;
use crate::private::{self, make_dir};
use crate::system;
use std::path::{Path, PathBuf};

/// A handle on a store directory; cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens the store in `root`, making what is missing; the directory above it must be there.
    ///
    /// `root` must be the caller's own. Directories are made for their owner alone: a layer may hold setuid files, which no
    /// other user of the machine may reach.
    pub fn open(root: &Path) -> Result<Store, PathError> {
        private::open_home(root)?;
        let store = Store { root: root.to_path_buf() };
        for dir in [store.layers(), store.images(), store.realisations(), store.roots(), store.locks()] {
            make_dir(&dir)?;
        }
        make_workplace(&store.stages())?;
        Ok(store)
    }

    /// Returns the directory this store is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether a layer stands here, in whatever form.
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

    /// Returns the lock that readers and writers share and gc takes alone.
    pub fn store_lock(&self) -> PathBuf {
        self.locks().join("store")
    }

    /// Returns the lock of whoever builds a derivation.
    pub fn build_lock(&self, key: &Digest) -> PathBuf {
        self.locks().join(format!("{BUILD_LOCK_PREFIX}{key}"))
    }

    /// Returns the lock that keeps an image while it runs.
    pub fn pin(&self, image: &Digest) -> PathBuf {
        self.locks().join(format!("{PIN_PREFIX}{image}"))
    }
}

/// The directory form's name inside a layer.
pub(crate) const TREE: &str = "tree";
pub(crate) const INDEX: &str = "index";
pub(crate) const MANIFEST: &str = "manifest.toml";
pub(crate) const PACKED: &str = "layer.tar.zst";
/// What the names of build locks begin with.
pub(crate) const BUILD_LOCK_PREFIX: &str = "build-";
/// What the names of pins begin with.
pub(crate) const PIN_PREFIX: &str = "image-";

/// Makes a directory in whose subdirectories many files come and go; one that exists is left alone.
///
/// ext4 puts a directory near its parent, and new files near their directory. For each it searches past all inodes
/// nearby that were freed less than a minute ago, one by one: after a large removal this doubles the time that a
/// build takes. Where the file system knows the wish, subdirectories are spread over the disk instead.
pub fn make_workplace(dir: &Path) -> Result<(), PathError> {
    if !dir.exists() {
        make_dir(dir)?;
        system::spread(dir);
    }
    Ok(())
}
