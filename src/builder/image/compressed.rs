//! Cold images: an image whose root was removed to save space, and rebuilding that root.
//!
//! An image is *cold* if it has a configuration and no root. Its layers may then exist only as compressed archives, without trees. To warm
//! it is to decompress the layers and compose the root; nothing is fetched and no build step is run.

use silo_store::compose::compose;
use silo_store::compression;
use silo_store::flock::{self, SharedLock};
use silo_store::layout::Store;

use silo_base::home::Home;

use super::{Error, Image, ImageId, failed, remove, root};

/// Returns true if the root of an image must be rebuilt before a run.
pub fn is_cold(home: &Home, id: ImageId) -> bool {
    !root(home, id).exists()
}

/// The place of an image: the home with its root, and the store with its layers.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The home.
    pub home: &'a Home,
    /// The store.
    pub store: &'a Store,
    /// The lock of the store.
    pub shared: &'a SharedLock,
}

/// Rebuilds the root of a cold image; does nothing if the root exists. Reports the number of finished entries to `progress`.
pub fn warm(place: Place<'_>, id: ImageId, image: &Image, progress: &(dyn Fn(u64) + Sync)) -> Result<(), Error> {
    let Place { home, store, shared } = place;
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| Error::Compose { id, source };
    // A lock file needs a home that can be written; a root that is there needs none.
    if root(home, id).exists() {
        return Ok(());
    }
    // Two concurrent runs of a cold tool rebuild once: the second waits here and then finds the root.
    let _one = flock::build(store, shared, &id.digest()).map_err(|error| broken(Box::new(error)))?;
    let to = root(home, id);
    if to.exists() {
        return Ok(());
    }
    compression::warm(store, shared, &image.layers, &|_| {}).map_err(|error| broken(Box::new(error)))?;
    let staged = home.work().join(format!("warm-{id}-{}", std::process::id()));
    remove(&staged)?;
    let made = compose(store, shared, &image.layers, &staged, progress).map_err(|error| broken(Box::new(error)));
    // Sync before the rename: after a power cut a run must not find a root with missing files.
    let made = made.and_then(|_| store.sync_images().map_err(|error| broken(Box::new(error))));
    if let Err(error) = made.and_then(|()| std::fs::rename(&staged, &to).map_err(failed("rename to", &to))) {
        // A leftover is swept by `silo gc`.
        drop(remove(&staged));
        return Err(error);
    }
    // A tool that is used again will likely be used more; its archives would only double the space that the new trees take.
    compression::drop_archives(store, shared, &image.layers).map_err(|error| broken(Box::new(error)))
}
