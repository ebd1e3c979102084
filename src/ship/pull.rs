//! Pulls an image: fetches the layers that the store lacks, in parallel, and composes the image.
//!
//! A blob is hashed while it arrives, and decompressed under a bound. Its layer is committed only if the archive inside has the layer's id.
//! So the result is the image of the contents, or an error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use silo_store::commit;
use silo_store::compose;
use silo_store::compression;
use silo_store::digest::{Digest, LayerId};
use silo_store::import::{self, Source};
use silo_store::realisation;

use silo_base::event::{Activity, Event};
use silo_base::thread;
use silo_build::image::{self, Image, ImageId};
use silo_fetch::download::{self, Request};
use silo_fetch::error::Size;
use silo_fetch::registry::repository::Repository;
use silo_fetch::unpack::compressed;
use silo_model::oci::contents::Layer;
use silo_model::oci::manifest::MAX_DOCUMENT_BYTES;

use crate::blob::{self, Blob};
use crate::blobs::LEAST_TRANSFERS;
use crate::context::Context;
use crate::error::Error;
use crate::find::Found;

/// A pulled image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: ImageId,
    /// Number of its layers.
    pub layers: usize,
    /// Number of layers that were fetched.
    pub fetched: usize,
    /// Bytes of these, compressed.
    pub bytes: u64,
    /// True if the image was not here before.
    pub fresh: bool,
}

/// Pulls an image into the store; it counts for no derivation yet.
pub fn pull(context: &Context<'_>, from: &Repository<'_>, found: &Found) -> Result<Pulled, Error> {
    let wrong = |what: String| Error::Document { place: found.place.clone(), what };
    let (id, image) = configuration(from, found)?;
    let named: Vec<LayerId> = found.contents.layers.iter().map(|layer| layer.manifest.layer).collect();
    if image.layers != named || image.arch != found.contents.arch {
        return Err(wrong("its configuration names other layers than its contents".to_owned()));
    }
    let all: BTreeMap<LayerId, &Layer> = found.contents.layers.iter().map(|layer| (layer.manifest.layer, layer)).collect();
    let missing: Vec<&Layer> = all.into_values().filter(|layer| !is_here(context, layer)).collect();
    let bytes = missing.iter().map(|layer| layer.blob.size).sum();
    let fresh = !image::is_there(context.home, id);
    fetch(context, from, &missing)?;
    if !fresh {
        context.store.sync()?;
    }
    compression::warm(context.store, context.lock, &image.layers, &|_| {}).map_err(|error| Error::form(image.layers[0], error))?;
    context.activity(Activity::Compose, found.contents.tool.as_ref().map_or("image", |(name, _)| name), None, |activity| {
        let progress = |done| (context.sink)(Event::Progress { id: activity, done });
        image::store(context.home, context.store, &image, |root| composed(context, &image.layers, root, &progress))
    })?;
    Ok(Pulled { image: id, layers: image.layers.len(), fetched: missing.len(), bytes, fresh })
}

/// Composes layers, while their bytes go to the disk: both must be done before the image gets its name.
fn composed(
    context: &Context<'_>,
    layers: &[LayerId],
    root: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<compose::Composed, compose::ComposeError> {
    std::thread::scope(|scope| {
        let syncing = thread::beside(scope, || context.store.sync());
        let composed = compose::compose(context.store, context.lock, layers, root, progress);
        match syncing {
            Ok(syncing) => syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => context.store.sync(),
        }?;
        composed
    })
}

/// Returns true if the store has a layer that counts: one that a realisation names, or one with all its entries.
pub fn is_here(context: &Context<'_>, layer: &Layer) -> bool {
    let id = layer.manifest.layer;
    let is_named = |drv: Digest| matches!(realisation::get(context.store, &drv), Ok(realisation::Realisation::Known(known)) if known == id);
    let derivation = Digest::parse(&layer.manifest.record.derivation);
    context.store.has(&id) && (derivation.is_ok_and(is_named) || commit::is_whole(context.store, &id))
}

/// Makes a pulled image and its layers count as the results of their derivations. Call it only for contents that the user trusts.
pub fn count(context: &Context<'_>, found: &Found, image: ImageId) -> Result<(), Error> {
    let pair = |layer: &Layer| Some((Digest::parse(&layer.manifest.record.derivation).ok()?, layer.manifest.layer));
    let pairs: Vec<(Digest, LayerId)> = found.contents.layers.iter().filter_map(pair).collect();
    // A realisation that is here stays: the layer that this machine made is as good.
    let is_new = |(drv, _): &(Digest, LayerId)| !matches!(realisation::get(context.store, drv), Ok(realisation::Realisation::Known(_)));
    let pairs: Vec<(Digest, LayerId)> = pairs.into_iter().filter(is_new).collect();
    realisation::put_many(context.store, context.lock, &pairs)?;
    for drv in &found.contents.derivations {
        image::remember(context.home, silo_model::derivation::DrvId::of_digest(*drv), image)?;
    }
    Ok(())
}

/// Reads the image's configuration, and checks that silo would write it the same.
fn configuration(from: &Repository<'_>, found: &Found) -> Result<(ImageId, Image), Error> {
    let digest = found.contents.config.digest;
    let bytes = from.blob(digest, MAX_DOCUMENT_BYTES)?;
    let bytes = bytes.ok_or_else(|| Error::Absent { place: from.location().to_string(), name: format!("sha256:{digest}") })?;
    let wrong = |what: String| Error::Document { place: found.place.clone(), what };
    let image = image::parse(&bytes).map_err(wrong)?;
    let (id, again) = image::configuration(&image);
    if again != bytes || image.layers.is_empty() {
        return Err(wrong("its configuration is not one that silo writes".to_owned()));
    }
    Ok((id, image))
}

/// Fetches layers, and imports each as soon as it is there.
pub fn fetch(context: &Context<'_>, from: &Repository<'_>, missing: &[&Layer]) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    let request = |layer: &&Layer| Request {
        name: layer.manifest.record.name.clone(),
        size: Size::Exactly(layer.blob.size),
        sha256: *layer.blob.digest.as_bytes(),
        candidates: vec![from.blob_url(layer.blob.digest)],
    };
    let requests: Vec<Request> = missing.iter().map(request).collect();
    let downloads = context.home.downloads();
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let halt = std::sync::atomic::AtomicBool::new(false);
    let over = std::sync::atomic::AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let arrived = |at: usize, path: &Path| {
        let imported = import_layer(context, missing[at], path);
        done.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = imported {
            failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
            halt.store(true, Ordering::Relaxed);
        }
    };
    let fetched = std::thread::scope(|scope| {
        // The user's wish to stop, passed on; without this thread it is seen between the layers only.
        let watching = thread::beside(scope, || {
            while !over.load(Ordering::Relaxed) {
                if context.stop.load(Ordering::Relaxed) {
                    halt.store(true, Ordering::Relaxed);
                }
                std::thread::park_timeout(std::time::Duration::from_millis(50));
            }
        });
        let fetch = download::Context {
            transport: context.transport,
            dir: &downloads,
            jobs: context.jobs.max(LEAST_TRANSFERS),
            sink: context.sink,
            cancel: &halt,
        };
        let fetched = download::fetch_once(&fetch, &requests, &arrived);
        over.store(true, Ordering::Relaxed);
        if let Ok(watching) = watching {
            watching.thread().unpark();
        }
        fetched
    });
    // A layer that is no layer is the reason why the others were cancelled.
    match failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some(error) => Err(error),
        None => {
            fetched?;
            Ok(())
        }
    }
}

fn import_layer(context: &Context<'_>, layer: &Layer, path: &Path) -> Result<(), Error> {
    let id = layer.manifest.layer;
    let failed = |error: std::io::Error| Error::form(id, error);
    let file = File::open(path).map_err(failed)?;
    let mut bytes = compressed::decompressed(file, layer.blob.size).map_err(failed)?;
    let name = path.display().to_string();
    let limit = layer.manifest.bytes.min(bytes.limit());
    let imported =
        import::import(context.store, context.lock, &id, &layer.manifest.record, Source { from: &mut bytes, limit, name: &name });
    // The blob has no use any more. If it stays, `silo gc` removes it.
    drop(fs::remove_file(path));
    imported.map_err(|error| Error::form(id, error))?;
    blob::remember(context.home, id.digest(), &Blob { layer: id, pointer: layer.blob, form: layer.form })
}
