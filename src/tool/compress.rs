//! Compresses images: replaces roots and layer trees by archives of the layers.
//!
//! A root consists of hard links to its layers' trees, so only removing both frees space. First every layer gets its archive, complete and
//! synced, while other commands may run anything. Then the store's exclusive lock is held for a moment, and roots and trees are renamed
//! away, unless the image was used since. A kill at any moment leaves images that run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use silo_store::compression::{self, FormError};
use silo_store::digest::LayerId;
use silo_store::flock;
use silo_store::parallel;
use silo_store::usage::LinkCounts;

use silo_base::event::{self, Activity, Event};
use silo_build::image::{self, ImageId, boot, compressed};

use super::Context;
use super::collect::now;
use super::gc_roots;

/// Error of compressing or restoring images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The images in use are unknown.
    #[error(transparent)]
    Keep(#[from] gc_roots::Error),
    /// Making a layer's archive failed.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The store could not be locked or measured.
    #[error(transparent)]
    Path(#[from] silo_store::path_error::PathError),
    /// An image cannot be read or restored.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The image does not exist.
    #[error("there is no image {0}")]
    Gone(ImageId),
    /// The user stopped the command.
    #[error("stopped; images not yet compressed are unchanged")]
    Stopped,
}

/// Counts and sizes of compressed images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Images.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// Disk space of the trees and roots.
    pub before: u64,
    /// Disk space of the archives.
    pub after: u64,
}

/// Returns the images with a root that were not used for this time and are not running.
pub fn idle(context: &Context<'_>, older_than: Duration) -> Result<Vec<ImageId>, Error> {
    let running = flock::image_locks(context.store)?;
    let unused = |id: &ImageId| {
        let used = image::last_used(context.home, *id).and_then(|used| u64::try_from(used).ok()).unwrap_or(0);
        UNIX_EPOCH
            .checked_add(Duration::from_secs(used))
            .and_then(|used| now(context).duration_since(used).ok())
            .is_some_and(|age| age >= older_than)
    };
    let images = image::list(context.home)?.into_iter();
    Ok(images.filter(|id| !compressed::is_cold(context.home, *id) && !running.contains_key(&id.digest()) && unused(id)).collect())
}

/// Computes the counts and the disk space that compressing would remove. The size of the archives is unknown in advance.
pub fn foresee(context: &Context<'_>, images: &[ImageId]) -> Result<Compressed, Error> {
    let layers = theirs_alone(context, images)?;
    let mut foreseen = Compressed { images: images.len(), layers: layers.len(), ..Compressed::default() };
    let mut ledger = LinkCounts::default();
    let places = images.iter().flat_map(|id| boot::made_of_layers(context.home, *id)).chain(layers.iter().map(|id| context.store.tree(id)));
    for place in places {
        foreseen.before += ledger.add(&place)?.freed;
    }
    Ok(foreseen)
}

/// Compresses the images that were not used since the call.
pub fn compress(context: &Context<'_>, images: &[ImageId]) -> Result<Compressed, Error> {
    if images.is_empty() {
        return Ok(Compressed::default());
    }
    let seen: Vec<(ImageId, Option<i64>)> = images.iter().map(|id| (*id, image::last_used(context.home, *id))).collect();
    pack(context, &theirs_alone(context, images)?)?;
    let exclusive = gc_roots::exclude(context.store, gc_roots::PATIENCE)?;
    let running = flock::image_locks(context.store)?;
    let still = |(id, used): &&(ImageId, Option<i64>)| {
        !running.contains_key(&id.digest()) && image::last_used(context.home, *id) == *used && used.is_some()
    };
    let going: Vec<ImageId> = seen.iter().filter(still).map(|(id, _)| *id).collect();
    // List the layers again, since another image with the same layers may have been made.
    let layers: Vec<LayerId> = theirs_alone(context, &going)?.into_iter().filter(|id| context.store.packed(id).exists()).collect();
    let roots: Vec<_> = going.iter().flat_map(|id| boot::made_of_layers(context.home, *id)).collect();
    let before = compression::cool(context.store, exclusive, &roots, &layers)?;
    let mut ledger = LinkCounts::default();
    let mut after = 0;
    for id in &layers {
        after += ledger.add(&context.store.packed(id))?.fresh;
    }
    Ok(Compressed { images: going.len(), layers: layers.len(), before, after })
}

/// Returns the layers of these images that no other image with a root has.
fn theirs_alone(context: &Context<'_>, images: &[ImageId]) -> Result<BTreeSet<LayerId>, Error> {
    let made_of = gc_roots::made_of(context.home)?;
    let mut theirs = BTreeSet::new();
    let mut others = BTreeSet::new();
    for (id, layers) in &made_of {
        if images.iter().any(|image| image.digest() == *id) {
            theirs.extend(layers.iter().copied());
        } else if context.store.image(id).join(image::ROOT).exists() {
            others.extend(layers.iter().copied());
        }
    }
    Ok(theirs.difference(&others).filter(|id| context.store.tree(id).exists()).copied().collect())
}

fn pack(context: &Context<'_>, layers: &BTreeSet<LayerId>) -> Result<(), Error> {
    let shared = flock::share(context.store)?;
    let id = event::next_id();
    (context.sink)(Event::Started { id, kind: Activity::Compress, name: "layers".to_owned(), total: Some(layers.len() as u64) });
    let done = AtomicU64::new(0);
    let layers: Vec<LayerId> = layers.iter().copied().collect();
    let packed = parallel::try_map(&layers, |layer| {
        pack_one(context, &shared, layer, &|| {
            (context.sink)(Event::Progress { id, done: done.fetch_add(1, Ordering::Relaxed) + 1 });
        })
    });
    (context.sink)(Event::Finished { id });
    packed.map(drop)
}

fn pack_one(context: &Context<'_>, shared: &flock::SharedLock, layer: &LayerId, tell: &(dyn Fn() + Sync)) -> Result<(), Error> {
    if context.stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    compression::pack_missing(context.store, shared, layer)?;
    tell();
    Ok(())
}

/// Restores the root of a compressed image.
pub fn restore(context: &Context<'_>, id: ImageId) -> Result<(), Error> {
    let shared = flock::share(context.store)?;
    let image = image::get(context.home, id)?.ok_or(Error::Gone(id))?;
    let activity = event::next_id();
    (context.sink)(Event::Started { id: activity, kind: Activity::Restore, name: format!("image {:.12}", id.to_string()), total: None });
    let place = compressed::Place { home: context.home, store: context.store, shared: &shared };
    let made = compressed::warm(place, id, &image, &|done| {
        (context.sink)(Event::Progress { id: activity, done });
    });
    (context.sink)(Event::Finished { id: activity });
    Ok(made?)
}
