//! Making images cold: the archives of their layers instead of trees and roots.
//!
//! A root is hard links to its layers' trees, so only giving up both frees anything. First every layer gets its
//! archive, whole and synced, while anybody may run anything; then, under the store's lock and for a moment, roots and
//! trees are renamed away, unless an image was used meanwhile. A kill at any moment leaves images that run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use silo_store::digest::LayerId;
use silo_store::forms::{self, FormError};
use silo_store::lock;
use silo_store::parallel;
use silo_store::usage::Ledger;

use crate::event::{self, Activity, Event};
use crate::image::{self, ImageId, boot, cold};

use super::Context;
use super::collect::now;
use super::keep;

/// Why images could not be made cold, or warm again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known what is in use.
    #[error(transparent)]
    Keep(#[from] keep::Error),
    /// A layer's archive could not be made.
    #[error(transparent)]
    Form(#[from] FormError),
    /// The store could not be locked or measured.
    #[error(transparent)]
    Path(#[from] silo_store::path_error::PathError),
    /// An image cannot be read or made.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// There is no such image.
    #[error("image {0} is not here")]
    Gone(ImageId),
    /// The user wants to stop.
    #[error("stopped; images that are not compressed yet are as they were")]
    Stopped,
}

/// What was, or would be, made cold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compressed {
    /// Images.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// What their trees and roots took on disk.
    pub before: u64,
    /// What their archives take.
    pub after: u64,
}

/// Returns the images with a root that were not used for so long and are not running.
pub fn idle(context: &Context<'_>, older_than: Duration) -> Result<Vec<ImageId>, Error> {
    let running = lock::pins(context.store)?;
    let unused = |id: &ImageId| {
        let used = image::last_used(context.home, *id).and_then(|used| u64::try_from(used).ok()).unwrap_or(0);
        UNIX_EPOCH
            .checked_add(Duration::from_secs(used))
            .and_then(|used| now(context).duration_since(used).ok())
            .is_some_and(|age| age >= older_than)
    };
    let images = image::list(context.home)?.into_iter();
    Ok(images.filter(|id| !cold::is_cold(context.home, *id) && !running.contains_key(&id.digest()) && unused(id)).collect())
}

/// Says what compressing would give up; how small the archives get is not known before.
pub fn foresee(context: &Context<'_>, images: &[ImageId]) -> Result<Compressed, Error> {
    let layers = theirs_alone(context, images)?;
    let mut foreseen = Compressed { images: images.len(), layers: layers.len(), ..Compressed::default() };
    let mut ledger = Ledger::default();
    let places = images.iter().flat_map(|id| boot::made_of_layers(context.home, *id)).chain(layers.iter().map(|id| context.store.tree(id)));
    for place in places {
        foreseen.before += ledger.add(&place)?.freed;
    }
    Ok(foreseen)
}

/// Makes images cold that are not used since they were listed.
pub fn compress(context: &Context<'_>, images: &[ImageId]) -> Result<Compressed, Error> {
    if images.is_empty() {
        return Ok(Compressed::default());
    }
    let seen: Vec<(ImageId, Option<i64>)> = images.iter().map(|id| (*id, image::last_used(context.home, *id))).collect();
    pack(context, &theirs_alone(context, images)?)?;
    let exclusive = keep::exclude(context.store, keep::PATIENCE)?;
    let running = lock::pins(context.store)?;
    let still = |(id, used): &&(ImageId, Option<i64>)| {
        !running.contains_key(&id.digest()) && image::last_used(context.home, *id) == *used && used.is_some()
    };
    let going: Vec<ImageId> = seen.iter().filter(still).map(|(id, _)| *id).collect();
    // Counted anew: another image may have been made of the same layers.
    let layers: Vec<LayerId> = theirs_alone(context, &going)?.into_iter().filter(|id| context.store.packed(id).exists()).collect();
    let roots: Vec<_> = going.iter().flat_map(|id| boot::made_of_layers(context.home, *id)).collect();
    let before = forms::cool(context.store, exclusive, &roots, &layers)?;
    let mut ledger = Ledger::default();
    let mut after = 0;
    for id in &layers {
        after += ledger.add(&context.store.packed(id))?.fresh;
    }
    Ok(Compressed { images: going.len(), layers: layers.len(), before, after })
}

/// Returns the layers of these images that no other image with a root has.
fn theirs_alone(context: &Context<'_>, images: &[ImageId]) -> Result<BTreeSet<LayerId>, Error> {
    let made_of = keep::made_of(context.home)?;
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
    let shared = lock::share(context.store)?;
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

fn pack_one(context: &Context<'_>, shared: &lock::SharedLock, layer: &LayerId, tell: &(dyn Fn() + Sync)) -> Result<(), Error> {
    if context.stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    forms::pack_missing(context.store, shared, layer)?;
    tell();
    Ok(())
}

/// Makes a cold image warm again.
pub fn restore(context: &Context<'_>, id: ImageId) -> Result<(), Error> {
    let shared = lock::share(context.store)?;
    let image = image::get(context.home, id)?.ok_or(Error::Gone(id))?;
    let activity = event::next_id();
    (context.sink)(Event::Started { id: activity, kind: Activity::Restore, name: format!("image {:.12}", id.to_string()), total: None });
    let made = cold::warm(context.home, context.store, &shared, id, &image, &|done| {
        (context.sink)(Event::Progress { id: activity, done });
    });
    (context.sink)(Event::Finished { id: activity });
    Ok(made?)
}
