//! Images whose root was given up for the archives of their layers, and how it comes back.
//!
//! An image is *cold* when its configuration stands and its root does not. Its layers may lack their trees then,
//! and have an archive each. Coming back is decompressing and composing; nothing is fetched and nothing run.

use silo_store::compose::compose;
use silo_store::forms;
use silo_store::layout::Store;
use silo_store::lock::{self, SharedLock};

use crate::home::Home;

use super::{Error, Image, ImageId, failed, remove, root};

/// Whether an image's root has to be made again before it can be run.
pub fn is_cold(home: &Home, id: ImageId) -> bool {
    !root(home, id).exists()
}

/// Makes the root of a cold image again; an image whose root stands is left alone. Tells how many entries are done.
pub fn warm(
    home: &Home,
    store: &Store,
    shared: &SharedLock,
    id: ImageId,
    image: &Image,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), Error> {
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| Error::Compose { id, source };
    // Two runs of a cold tool do this once: the second waits here and finds the root.
    let _one = lock::build(store, shared, &id.digest()).map_err(|error| broken(Box::new(error)))?;
    let place = root(home, id);
    if place.exists() {
        return Ok(());
    }
    forms::warm(store, shared, &image.layers, &|_| {}).map_err(|error| broken(Box::new(error)))?;
    let staged = home.work().join(format!("warm-{id}-{}", std::process::id()));
    remove(&staged)?;
    let made = compose(store, shared, &image.layers, &staged, progress).map_err(|error| broken(Box::new(error)));
    // It must outlive a power cut before it stands where a run looks for it.
    let made = made.and_then(|_| store.sync_images().map_err(|error| broken(Box::new(error))));
    if let Err(error) = made.and_then(|()| std::fs::rename(&staged, &place).map_err(failed("rename to", &place))) {
        // What is left here is swept by `silo gc`.
        drop(remove(&staged));
        return Err(error);
    }
    // Who comes back is likely to stay; what has trees again need not take the archives' space too.
    forms::drop_archives(store, shared, &image.layers).map_err(|error| broken(Box::new(error)))
}
