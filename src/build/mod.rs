//! Building: a plan's steps into layers, and the layers into an image.
//!
//! [`build`] walks the plan from its inputs up. Files are fetched together; each package is unpacked as
//! soon as its file is whole, by one thread a processor; then the configure step runs in the sandbox; then
//! what is left is put together. A step whose derivation has a realisation is not run again, so a build
//! with nothing to do looks at a few small files and ends.
//!
//! **Invariant.** A realisation is written only after the layer's bytes are synced to disk, and an image is
//! published by one rename: a build that is killed at any moment leaves nothing or the whole.

mod configure;
mod database;
mod error;
mod packages;
mod script;
mod scripted;
mod scrub;
mod status;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use silo_store::compose;
use silo_store::digest::{Digest, LayerId};
use silo_store::layout::Store;
use silo_store::lock::SharedLock;
use silo_store::realisation::Realisation;

use crate::derivation::{self, Derivation};
use crate::event::{self, Activity, Event, Sink};
use crate::fetch::mirrors::Mirrors;
use crate::fetch::transport::Transport;
use crate::home::Home;
use crate::image::{self, ImageId};
use crate::lock::Lock;
use crate::recipe::Recipe;
use crate::system::Arch;

pub use error::Error;

/// The search path of Debian's root; the image's own environment carries it.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// The home that the image goes to.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// The right to use the store: nothing is collected while it is held.
    pub lock: &'a SharedLock,
    /// The way to the mirrors.
    pub transport: &'a Transport,
    /// The mirrors.
    pub mirrors: &'a Mirrors,
    /// The program itself, which is started anew for each step (see [`crate::launch`]).
    pub program: &'a Path,
    /// Seconds since 1970 now; it goes into logs' and layers' records, never into their bytes.
    pub now: i64,
    /// Processors to use.
    pub jobs: usize,
    /// Who is told what happens.
    pub sink: Sink<'a>,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
}

impl Workshop<'_> {
    fn created(&self) -> u64 {
        u64::try_from(self.now).unwrap_or(0)
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Runs `work` as one activity.
    fn activity<T>(&self, kind: Activity, name: &str, total: Option<u64>, work: impl FnOnce(u64) -> T) -> T {
        let id = event::next_id();
        (self.sink)(Event::Started { id, kind, name: name.to_owned(), total });
        let done = work(id);
        (self.sink)(Event::Finished { id });
        done
    }
}

/// What a build did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// The image.
    pub image: ImageId,
    /// Layers that were made, and not found.
    pub made: usize,
}

/// Builds the image of a recipe from its lock, for the machine's own architecture.
pub fn build(shop: &Workshop<'_>, recipe: &Recipe, lock: &Lock) -> Result<Built, Error> {
    let arch = Arch::host();
    let packages = lock.packages.get(&arch).filter(|packages| !packages.is_empty());
    let packages = packages.ok_or_else(|| Error::NoPackages { recipe: recipe.name.clone(), arch })?;
    let drv = Derivation::Image(derivation::Image {
        arch,
        epoch: lock.epoch,
        debs: packages.values().map(|package| package.sha256.0).collect(),
        command: recipe.run.command.clone(),
        env: environment(recipe),
    })
    .id();
    if let Some(image) = image::made_by(shop.home, drv) {
        return Ok(Built { image, made: 0 });
    }
    let packages = packages::realise(shop, lock, arch)?;
    let choice = scripted::choose(&packages.unpacked);
    let configured = thread::scope(|scope| {
        // The unpacked files are on their way to the disk while the scripts run.
        let recording = scope.spawn(|| record(shop, &packages.made));
        let configured = configure::realise(shop, &choice, lock, arch);
        recording.join().map_err(|_| Error::Worker)??;
        configured
    })?;
    let database = database::realise(shop, &choice, configured.layer, lock.epoch)?;
    let made = packages.made.len() + usize::from(configured.base.is_some()) + usize::from(database.is_some_and(|layer| layer.made));
    let image = image::Image {
        arch,
        epoch: lock.epoch,
        layers: layers(&choice, configured.layer, database.map(|done| done.layer)),
        command: recipe.run.command.clone(),
        env: environment(recipe),
    };
    shop.check_stop()?;
    let image = shop.activity(Activity::Compose, &recipe.name, None, |id| {
        let progress = |done| (shop.sink)(Event::Progress { id, done });
        image::put(shop.home, shop.store, &image, drv, |root| match &configured.base {
            Some(step) => compose::recompose(shop.store, shop.lock, &step.root(), &image.layers, root, &progress),
            None => compose::compose(shop.store, shop.lock, &image.layers, root, &progress),
        })
    })?;
    Ok(Built { image, made })
}

/// A layer and whether it had to be made.
#[derive(Clone, Copy, Debug)]
struct Realised {
    layer: LayerId,
    made: bool,
}

/// The environment of an image: a search path, then the recipe's own.
fn environment(recipe: &Recipe) -> Vec<String> {
    let mut env = recipe.run.env.clone();
    env.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Orders an image's layers, lowest first.
fn layers(choice: &scripted::Choice<'_>, configured: LayerId, database: Option<LayerId>) -> Vec<LayerId> {
    let mut layers: Vec<LayerId> = choice.plain.iter().map(|package| package.record.layer).collect();
    layers.extend(choice.root_order());
    layers.push(configured);
    layers.extend(database);
    layers
}

/// Looks a derivation's realisation up, if its layer is still there.
fn realised(shop: &Workshop<'_>, drv: &Derivation) -> Option<LayerId> {
    // A broken or unreadable note is as good as none: the step is run again.
    match silo_store::realisation::get(shop.store, &drv.id().digest()) {
        Ok(Realisation::Known(layer)) if shop.store.has(&layer) => Some(layer),
        _ => None,
    }
}

/// Records what became of derivations, after all of it has reached the disk.
fn record(shop: &Workshop<'_>, done: &[(Digest, LayerId)]) -> Result<(), Error> {
    if done.is_empty() {
        return Ok(());
    }
    silo_store::realisation::put_many(shop.store, shop.lock, done).map_err(|source| Error::store("recording realisations", source))
}
