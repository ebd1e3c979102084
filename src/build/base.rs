//! The layers of somebody else's image that a tool is made of, fetched by their digests and unpacked side by side.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use silo_store::digest::LayerId;
use silo_store::manifest::Record as Manifest;
use silo_store::parallel;

use crate::derivation::{self, Derivation};
use crate::event::Activity;
use crate::fetch::download::{self, Context, Request};
use crate::fetch::error::Size;
use crate::lock::base::BaseLayer;
use crate::oci::reference::{self, Place};
use crate::registry;
use crate::system::Arch;
use crate::unpack::layer::{self, Source};

use super::bench::ours;
use super::state::State;
use super::{Error, Target, Workshop, realised};

/// A layer to be made.
struct Item<'a> {
    at: usize,
    layer: &'a BaseLayer,
    drv: Derivation,
}

/// Makes the layers of an image, unless they are known.
pub(super) fn realise(shop: &Workshop<'_>, target: &Target<'_>) -> Result<State, Error> {
    let base = target.lock.images.get(&Arch::host()).ok_or(Error::Worker)?;
    let items: Vec<Item<'_>> = base
        .layers
        .iter()
        .enumerate()
        .map(|(at, layer)| Item { at, layer, drv: Derivation::Blob(derivation::Blob { blob: layer.sha256.0, diff: layer.diff.0 }) })
        .collect();
    let mut layers: Vec<Option<LayerId>> = items.iter().map(|item| realised(shop, &item.drv)).collect();
    let missing: Vec<&Item<'_>> = items.iter().filter(|item| layers[item.at].is_none()).collect();
    let made = missing.len();
    if !missing.is_empty() {
        shop.check_stop()?;
        let files = fetch(shop, target, &missing)?;
        let name = target.recipe.image.clone().unwrap_or_default();
        let work: Vec<(&Item<'_>, &Path)> = missing.iter().copied().zip(files.iter().map(AsRef::as_ref)).collect();
        let unpacked: Vec<(usize, LayerId)> = shop.activity(Activity::Unpack, "layers", None, |_| {
            parallel::try_map(&work, |(item, file)| Ok::<_, Error>((item.at, unpack(shop, item, &name, file)?)))
        })?;
        for (at, layer) in unpacked {
            layers[at] = Some(layer);
        }
    }
    let over = layers.into_iter().collect::<Option<Vec<LayerId>>>().ok_or(Error::Worker)?;
    Ok(State { over, made, ..State::default() })
}

fn fetch(shop: &Workshop<'_>, target: &Target<'_>, missing: &[&Item<'_>]) -> Result<Vec<std::path::PathBuf>, Error> {
    let base = target.lock.images.get(&Arch::host()).ok_or(Error::Worker)?;
    let reference = reference::parse(target.recipe.image.as_deref().unwrap_or_default()).map_err(|_| Error::Worker)?;
    let asking = registry::Context { transport: shop.transport, user_home: &shop.outside.user_home, cancel: shop.stop };
    let dir = shop.home.downloads();
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
    let absent: Vec<Request> = nowhere.iter().filter(|request| !download::is_present(&dir, request)).cloned().collect();
    // What is here needs nobody to be asked.
    let requests = match (absent.is_empty(), &reference.place) {
        (true, _) => nowhere,
        (false, Place::Archive { path, .. }) => {
            let name = path.display().to_string();
            shop.activity(Activity::Unpack, &name, None, |_| registry::take(asking, &reference, &dir, &absent))?;
            nowhere
        }
        (false, Place::Registry { .. } | Place::Layout(_)) => {
            let address = registry::blobs(asking, &reference, base.manifest.0)?;
            requests(&|layer| vec![address(layer.sha256.0)])
        }
    };
    let context = Context { transport: shop.transport, dir: &dir, jobs: download::MAX_JOBS, sink: shop.sink, cancel: shop.stop };
    Ok(download::fetch_all(&context, &requests, &|_, _| {})?)
}

fn unpack(shop: &Workshop<'_>, item: &Item<'_>, name: &str, path: &Path) -> Result<LayerId, Error> {
    let began = Instant::now();
    let number = item.at + 1;
    let key = item.drv.id().digest();
    let ours = ours(shop, &key)?;
    if let Some(layer) = realised(shop, &item.drv) {
        return Ok(layer);
    }
    let doing = |what: &str| format!("{what} layer {number} of {name}");
    let file = File::open(path).map_err(|source| Error::File { doing: "open", path: path.to_owned(), source })?;
    let mut stage = shop.store.stage_difference().map_err(|source| Error::store(doing("staging"), source))?;
    let source = Source { layer: item.layer.sha256.0, size: item.layer.size, diff_id: item.layer.diff.0 };
    if let Err(error) = layer::unpack(source, file, &mut stage) {
        if matches!(error, layer::Error::Digest { .. } | layer::Error::Read { .. }) {
            // The file is of no use to anybody: the next attempt fetches it again.
            drop(std::fs::remove_file(path));
        }
        return Err(error.into());
    }
    let manifest = Manifest {
        derivation: item.drv.id().to_string(),
        name: format!("layer {number} of {name}"),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: shop.created(),
        inputs: vec![item.layer.sha256.0.to_string()],
        packages: Vec::new(),
    };
    let layer = stage.commit(&manifest, shop.lock).map_err(|source| Error::store(doing("committing"), source))?.id;
    shop.notes.add(key, layer, Some(ours));
    Ok(layer)
}
