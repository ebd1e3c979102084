//! Base image: fetches the layers of a third-party image by digest and unpacks them in parallel.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use silo_store::digest::{Digest, LayerId};
use silo_store::index::Index;
use silo_store::manifest::Record as Manifest;
use silo_store::merge::{Merged, merge};
use silo_store::parallel;
use silo_store::path::LayerPath;
use silo_store::path_error::PathError;

use silo_base::event::{Activity, Event};
use silo_fetch::download::{self, Context, Request};
use silo_fetch::error::Size;
use silo_fetch::registry;
use silo_fetch::unpack::layer::{self, Source};
use silo_fetch::unpack::lower_layers::{self, Lower};
use silo_model::derivation::{self, Derivation};
use silo_model::lock::Sha256;
use silo_model::lock::base::{Base, BaseLayer};
use silo_model::oci::reference::{self, Place};

use super::context::{BuildContext, Target, realised};
use super::error::Error;
use super::state::State;
use super::step::lock_step;

/// A layer to unpack.
struct Item<'a> {
    at: usize,
    layer: &'a BaseLayer,
}

impl Item<'_> {
    /// Returns the derivation of the layer, unpacked alone.
    fn drv(&self) -> Derivation {
        self.drv_of(Vec::new())
    }

    /// Returns the derivation of the layer, unpacked over lower layers. Over none it is another one than alone: a deletion has no effect
    /// there, and in another image the same blob may have lower layers.
    fn drv_over(&self, over: &[LayerId]) -> Derivation {
        let nothing = || vec![LayerId::new(Digest::of(b""))];
        self.drv_of(if over.is_empty() { nothing() } else { over.to_vec() })
    }

    fn drv_of(&self, over: Vec<LayerId>) -> Derivation {
        let Sha256(blob) = self.layer.sha256;
        Derivation::Blob(derivation::Blob { blob, diff: self.layer.diff.0, over })
    }
}

/// Returns the derivations of the layers of a target's base image, each unpacked alone.
pub(super) fn derivations(target: &Target<'_>) -> Vec<Digest> {
    let layers = target.lock.images.get(&target.arch).map(|base| base.layers.as_slice()).unwrap_or_default();
    layers.iter().map(|layer| Item { at: 0, layer }.drv().id().digest()).collect()
}

/// Returns the layers of the base image; fetches and unpacks missing ones.
///
/// Most layers do not depend on lower ones and are unpacked in parallel. The rest is unpacked again, each over its lower layers.
pub(super) fn realise(ctx: &BuildContext<'_>, target: &Target<'_>) -> Result<State, Error> {
    let base = image_of(target)?;
    let items: Vec<Item<'_>> = base.layers.iter().enumerate().map(|(at, layer)| Item { at, layer }).collect();
    let alone: Vec<Option<LayerId>> = items.iter().map(|item| realised(ctx, &item.drv())).collect();
    let name = target.recipe.image.clone().unwrap_or_default();
    // A layer that depends on lower ones has no realisation of its own. It is looked up later, by its lower layers.
    let missing: Vec<&Item<'_>> = items.iter().filter(|item| alone[item.at].is_none()).collect();
    let known = over_known(ctx, &items, &alone)?;
    if let Some(over) = known {
        return Ok(State { over, ..State::default() });
    }
    ctx.check_stop()?;
    let mut layers = alone;
    let mut made = 0;
    if !missing.is_empty() {
        let files = fetch(ctx, target, &missing)?;
        let work: Vec<(&Item<'_>, &Path)> = missing.iter().copied().zip(files.iter().map(AsRef::as_ref)).collect();
        let unpacked: Vec<(usize, Option<LayerId>)> = ctx.activity(Activity::Unpack, "layers", None, |_| {
            parallel::try_map(&work, |(item, file)| Ok::<_, Error>((item.at, unpack(ctx, item, &name, file, None)?)))
        })?;
        for (at, layer) in unpacked {
            made += usize::from(layer.is_some());
            layers[at] = layer;
        }
    }
    let mut over: Vec<LayerId> = Vec::with_capacity(items.len());
    for item in &items {
        let alone = match layers[item.at] {
            Some(layer) if fits(ctx, &over, layer)? => Some(layer),
            _ => realised(ctx, &item.drv_over(&over)),
        };
        let layer = match alone {
            Some(layer) => layer,
            None => {
                let files = fetch(ctx, target, &[item])?;
                let file = files.first().ok_or_else(|| Error::fault(format!("layer {} of {name} was not fetched", item.at + 1)))?;
                made += 1;
                let made = ctx.activity(Activity::Unpack, "layers", None, |_| unpack(ctx, item, &name, file, Some(&over)))?;
                made.ok_or_else(|| Error::fault(format!("layer {} of {name} was not unpacked", item.at + 1)))?
            }
        };
        over.push(layer);
    }
    Ok(State { over, made, ..State::default() })
}

/// Fetches the compressed layers of the base image, lowest first, and verifies their digests.
pub(super) fn files(ctx: &BuildContext<'_>, target: &Target<'_>) -> Result<Vec<PathBuf>, Error> {
    let items: Vec<Item<'_>> = image_of(target)?.layers.iter().enumerate().map(|(at, layer)| Item { at, layer }).collect();
    let paths = fetch(ctx, target, &items.iter().collect::<Vec<_>>())?;
    for (item, path) in items.iter().zip(&paths) {
        download::verify_file(path, item.layer.sha256.0.as_bytes())?;
    }
    Ok(paths)
}

/// Returns the base image in the lock.
fn image_of<'a>(target: &Target<'a>) -> Result<&'a Base, Error> {
    let arch = target.arch;
    target.lock.images.get(&arch).ok_or_else(|| Error::NoPackages { recipe: target.recipe.name.clone(), arch })
}

/// Returns all layers if each has a realisation, alone or over its lower layers.
fn over_known(ctx: &BuildContext<'_>, items: &[Item<'_>], alone: &[Option<LayerId>]) -> Result<Option<Vec<LayerId>>, Error> {
    let mut over: Vec<LayerId> = Vec::with_capacity(items.len());
    for item in items {
        let layer = match alone[item.at] {
            Some(layer) if fits(ctx, &over, layer)? => Some(layer),
            _ => realised(ctx, &item.drv_over(&over)),
        };
        match layer {
            Some(layer) => over.push(layer),
            None => return Ok(None),
        }
    }
    Ok(Some(over))
}

/// Returns true if a layer that was unpacked alone has the same content over these layers.
fn fits(ctx: &BuildContext<'_>, over: &[LayerId], layer: LayerId) -> Result<bool, Error> {
    let failed = |source| Error::store("reading a layer".to_owned(), source);
    let index = silo_store::layer::read_index(ctx.store, &layer).map_err(failed)?;
    if over.is_empty() || !lower_layers::is_loose(&index) {
        return Ok(true);
    }
    Ok(lower_layers::fits(&index, &merged(ctx, over)?.index))
}

/// Merges the indexes of the lower layers.
fn merged(ctx: &BuildContext<'_>, over: &[LayerId]) -> Result<Merged, Error> {
    let failed = |source| Error::store("reading a layer".to_owned(), source);
    let indexes: Vec<Index> =
        over.iter().map(|layer| silo_store::layer::read_index(ctx.store, layer)).collect::<Result<_, _>>().map_err(failed)?;
    merge(&indexes.iter().collect::<Vec<_>>()).map_err(|source| Error::store("laying layers over each other".to_owned(), source))
}

fn fetch(ctx: &BuildContext<'_>, target: &Target<'_>, missing: &[&Item<'_>]) -> Result<Vec<std::path::PathBuf>, Error> {
    let base = image_of(target)?;
    let image = target.recipe.image.as_deref().unwrap_or_default();
    let reference = reference::parse(image).map_err(|what| Error::Reference { image: image.to_owned(), what })?;
    let asking = registry::Context { transport: ctx.transport, user_home: &ctx.outside.user_home, cancel: ctx.stop };
    let dir = ctx.home.downloads();
    let requests = |address: &dyn Fn(&BaseLayer) -> Vec<String>| -> Vec<Request> {
        let request = |item: &&Item<'_>| Request {
            name: format!("layer {}", item.at + 1),
            size: Size::Exactly(item.layer.size),
            sha256: *item.layer.sha256.0.as_bytes(),
            candidates: address(item.layer),
        };
        missing.iter().map(request).collect()
    };
    let nowhere = requests(&|_| Vec::new());
    let is_known = |request: &Request| download::is_present(&dir, request) || !ctx.transport.offers(&request.sha256).is_empty();
    let absent: Vec<Request> = nowhere.iter().filter(|request| !is_known(request)).cloned().collect();
    // Without missing files the registry is not contacted.
    let requests = match (absent.is_empty(), &reference.place) {
        (true, _) => nowhere,
        (false, Place::Archive { path, .. }) => {
            let name = path.display().to_string();
            ctx.activity(Activity::Unpack, &name, None, |_| registry::take(asking, &reference, &dir, &absent))?;
            nowhere
        }
        (false, Place::Registry { .. } | Place::Layout(_)) => {
            let address = registry::blobs(asking, &reference, base.manifest.0)?;
            requests(&|layer| vec![address(layer.sha256.0)])
        }
    };
    let context = Context { transport: ctx.transport, dir: &dir, jobs: download::MAX_JOBS, sink: ctx.sink, cancel: ctx.stop };
    Ok(download::fetch_all(&context, &requests, &|_, _| {})?)
}

/// Unpacks a layer, over lower layers if `over` has them. Returns `None` if the layer needs them and `over` is `None`.
fn unpack(ctx: &BuildContext<'_>, item: &Item<'_>, name: &str, path: &Path, over: Option<&[LayerId]>) -> Result<Option<LayerId>, Error> {
    let began = Instant::now();
    let number = item.at + 1;
    let drv = over.map_or_else(|| item.drv(), |over| item.drv_over(over));
    let key = drv.id().digest();
    let lock = lock_step(ctx, &key)?;
    if let Some(layer) = realised(ctx, &drv) {
        return Ok(Some(layer));
    }
    let doing = |what: &str| format!("{what} layer {number} of {name}");
    let file = File::open(path).map_err(|source| Error::File(PathError { doing: "open", path: path.to_owned(), source }))?;
    let mut stage = ctx.store.stage_difference().map_err(|source| Error::store(doing("staging"), source))?;
    let source = Source { layer: item.layer.sha256.0, size: item.layer.size, diff_id: item.layer.diff.0 };
    let merged = over.map(|over| merged(ctx, over)).transpose()?;
    let trees: Vec<PathBuf> = over.into_iter().flatten().map(|layer| ctx.store.tree(layer)).collect();
    let open = |path: &LayerPath| {
        let merged = merged.as_ref().ok_or(std::io::ErrorKind::NotFound)?;
        let at = merged.index.entries().binary_search_by(|entry| entry.path.cmp(path)).ok();
        let tree = at.and_then(|at| merged.sources[at]).and_then(|number| trees.get(number)).ok_or(std::io::ErrorKind::NotFound)?;
        File::open(tree.join(path.as_path()))
    };
    let lower = merged.as_ref().map(|merged| Lower { index: &merged.index, open: &open });
    let differences = match layer::unpack(source, file, lower, &mut stage) {
        Ok(differences) => differences,
        Err(layer::Error::Lower { .. }) if over.is_none() => return Ok(None),
        Err(error) => {
            if matches!(error, layer::Error::Digest { .. } | layer::Error::Read { .. }) {
                // The file is corrupt: remove it, so that the next attempt fetches it again.
                drop(std::fs::remove_file(path));
            }
            return Err(error.into());
        }
    };
    for line in differences.lines() {
        (ctx.sink)(Event::Note { text: format!("{name}, layer {number}: {line}") });
    }
    let manifest = Manifest {
        derivation: drv.id().to_string(),
        name: format!("layer {number} of {name}"),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: ctx.created(),
        inputs: vec![item.layer.sha256.0.to_string()],
        packages: Vec::new(),
        removed: Vec::new(),
        place: String::new(),
    };
    let layer = stage.commit(&manifest, ctx.lock).map_err(|source| Error::store(doing("committing"), source))?.id;
    ctx.realisations.add(key, layer, Some(lock));
    Ok(Some(layer))
}
