//! Builds an image of a repository again from its lock, and compares the layers.
//!
//! The build has a home of its own, which is removed afterwards, so that it reuses no layer that came from the repository. Downloads are
//! shared, since each is verified by its digest.

use std::cell::OnceCell;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use silo_store::difference::differences;
use silo_store::digest::{Digest, LayerId};
use silo_store::flock as store_lock;
use silo_store::layout::{self, Store};
use silo_store::path_error::{PathError, at};
use silo_store::removal::remove_tree;
use silo_store::{layer, realisation};

use silo_base::home::Home;
use silo_build::image;
use silo_build::{BuildContext, RealisationWriter, Target};
use silo_model::document;
use silo_model::lock;
use silo_ship::find::{self, Found};

use super::Context;
use super::definition::{self, Scope};
use super::install;
use super::share;
use super::shipping::shipping;

/// The most differing paths of a layer that are listed.
const MAX_PATHS: usize = 20;

/// Error of a challenge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image cannot be read.
    #[error(transparent)]
    Share(#[from] share::Error),
    /// The image cannot be found.
    #[error(transparent)]
    Ship(#[from] silo_ship::Error),
    /// The image has no lock, or no tool.
    #[error("{place} has no lock to build from")]
    NoLock {
        /// The repository, with the tag or digest.
        place: String,
    },
    /// The lock cannot be read.
    #[error("the lock of {place}")]
    Lock {
        /// The repository, with the tag or digest.
        place: String,
        /// The fault.
        #[source]
        source: document::Error,
    },
    /// The definition of the tool cannot be read.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The recipe here gives another derivation.
    #[error("{place} was built from another recipe of {tool} than the one here, or with other settings")]
    OtherRecipe {
        /// The repository, with the tag or digest.
        place: String,
        /// The tool.
        tool: String,
    },
    /// The build failed.
    #[error(transparent)]
    Build(#[from] silo_build::Error),
    /// The result cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
}

/// A layer that the build made differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DifferentLayer {
    /// Its name.
    pub name: String,
    /// The layer of the repository.
    pub pushed: Option<LayerId>,
    /// The layer that was built.
    pub built: Option<LayerId>,
    /// The differing paths, if the pushed layer is on this machine.
    pub paths: Vec<String>,
}

/// The result of a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenged {
    /// The image of the repository.
    pub found: Found,
    /// Number of layers that were built.
    pub layers: usize,
    /// The layers that differ.
    pub different: Vec<DifferentLayer>,
}

/// Builds an image again.
pub fn challenge(context: &Context<'_>, from: &share::Target) -> Result<Challenged, Error> {
    let shared = store_lock::share(context.store)?;
    let shipping = shipping(context, &shared);
    let found = find::find(&shipping.repository(from.location.clone()), &from.tag, from.digest, context.home.arch())?;
    let no_lock = || Error::NoLock { place: found.place.clone() };
    let (Some((tool, _)), Some(text)) = (&found.contents.tool, &found.contents.lock) else { return Err(no_lock()) };
    let place = PathBuf::from(format!("{}: silo.lock", found.place));
    let mut locks = lock::parse(text, &place).map_err(|source| Error::Lock { place: found.place.clone(), source })?;
    let lock = locks.remove(tool).ok_or_else(no_lock)?;
    let scope = definition::scope(context.view(), tool)?;
    let global = (scope == Scope::Global).then(|| context.without_project());
    let context = global.as_ref().unwrap_or(context);
    let definition = definition::of(context.view(), tool, scope)?;
    let target = Target { frozen: true, ..definition.target(&lock) };
    if !found.contents.derivations.contains(&silo_build::derivation_of(&target).digest()) {
        return Err(Error::OtherRecipe { place: found.place.clone(), tool: tool.clone() });
    }
    let work = context.home.work();
    let temp = tempfile::Builder::new().prefix("challenge-").tempdir_in(&work);
    let temp = temp.map_err(|source| PathError { doing: "make a directory in", path: work, source })?;
    let compared = compare(context, &found, &target, temp.path());
    // The layers have directories that only this removes. An error of the build matters more.
    let removed = remove_tree(temp.path());
    let (layers, different) = compared?;
    removed?;
    Ok(Challenged { found, layers, different })
}

/// Builds the image in a home of its own; returns the number of its layers, and those that differ.
fn compare(context: &Context<'_>, found: &Found, target: &Target<'_>, dir: &Path) -> Result<(usize, Vec<DifferentLayer>), Error> {
    let home = Home::new(dir.join("home")).of_platform(context.home.arch());
    let store = Store::open(home.root())?;
    layout::make_workplace(&home.work())?;
    let (downloads, link) = (context.home.downloads(), home.downloads());
    silo_store::private::make_dir(&downloads)?;
    symlink(&downloads, &link).map_err(at("make the link", &link))?;
    let shared = store_lock::share(&store)?;
    let mirrors = OnceCell::new();
    let realisations = RealisationWriter::default();
    let shop = BuildContext {
        home: &home,
        store: &store,
        lock: &shared,
        check: None,
        pool: None,
        keep_failed: false,
        realisations: &realisations,
        ..install::workshop(context, &shared, &mirrors)
    };
    let built = silo_build::build(&shop, std::slice::from_ref(target)).remove(0)?;
    let image = image::get(&home, built.image)?.ok_or(share::Error::Gone(built.image))?;
    let pushed = &found.contents.layers;
    let mut different = Vec::new();
    for number in 0..image.layers.len().max(pushed.len()) {
        let (old, new) = (pushed.get(number), image.layers.get(number).copied());
        let before = old.map(|layer| layer.manifest.layer);
        if before != new {
            let name = old.map_or_else(|| format!("layer {}", number + 1), |layer| layer.manifest.record.name.clone());
            let paths = before.zip(new).map(|(before, new)| paths(context.store, &store, before, new)).unwrap_or_default();
            different.push(DifferentLayer { name, pushed: before, built: new, paths });
        } else if let Some((old, new)) = old.zip(new)
            && let Ok(named) = Digest::parse(&old.manifest.record.derivation)
            && !is_result(&store, &named, &new)?
        {
            // A pull would take the layer for the result of a derivation that does not give it.
            let name = format!("{}, as the result of {:.12}", old.manifest.record.name, named.to_string());
            different.push(DifferentLayer { name, pushed: before, built: None, paths: Vec::new() });
        }
    }
    if different.is_empty() && built.image.to_string() != found.contents.config.digest.to_string() {
        let name = "the configuration: environment, command".to_owned();
        different.push(DifferentLayer { name, pushed: None, built: None, paths: Vec::new() });
    }
    Ok((image.layers.len(), different))
}

/// True if a layer is the result of a derivation, whose owners may have been recorded only.
fn is_result(store: &Store, named: &Digest, layer: &LayerId) -> Result<bool, share::Error> {
    let own = layer::read_manifest(store, layer).ok().and_then(|manifest| Digest::parse(&manifest.record.derivation).ok());
    Ok(own.is_some_and(|own| realisation::recorded_owners_key(&own) == *named) || realisation::key_of(store, named, layer)?.is_some())
}

/// Lists the differing paths of two layers; none if the pushed one is not here.
fn paths(here: &Store, there: &Store, pushed: LayerId, built: LayerId) -> Vec<String> {
    let indexes = layer::read_index(here, &pushed).and_then(|old| Ok((old, layer::read_index(there, &built)?)));
    let Ok((old, new)) = indexes else { return Vec::new() };
    differences(&old, &new).iter().take(MAX_PATHS).map(ToString::to_string).collect()
}
