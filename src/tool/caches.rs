//! Binary caches: repositories that are asked for an image before it is built.
//!
//! An image is found by its derivation, which follows from the lock alone. What a cache answers counts only if a key that this user trusts
//! signed it, and if it names this derivation. So a cache can withhold an image and be slow; it cannot give another one. Whatever is wrong
//! with an answer is reported, and the image is built. For that build the cache may have the inputs, which count by their digests.

use silo_store::digest::Digest;
use silo_store::flock::SharedLock;
use silo_store::realisation;

use silo_base::event::Event;
use silo_base::units;
use silo_build::Target;
use silo_fetch::registry::repository::Repository;
use silo_model::config::CacheSource;
use silo_model::derivation::DrvId;
use silo_model::lock::Sha256;
use silo_model::oci::inputs::{Inputs, Output};
use silo_model::oci::location::{self, Location};
use silo_ship::find::{Found, find};
use silo_ship::push::tag_of;
use silo_ship::signatures::Signature;
use silo_ship::{Error, pull, signatures, vendor};
use silo_sign::key::Public;

use super::Context;
use super::cached_layers::CachedLayers;
use super::default_cache;
use super::keys::{self, Named};
use super::shipping::shipping;

/// Takes the images of these tools from the caches, as far as they have them, and learns which inputs they have for the others. Failures are
/// reported, and cost nothing but time. Returns the caches, which may have single layers of the other images.
pub fn take<'a>(context: &'a Context<'_>, shared: &'a SharedLock, caches: &[CacheSource], targets: &[Target<'_>]) -> CachedLayers<'a> {
    let mut layers = CachedLayers::new(context, shared);
    let is_missing = |target: &&Target<'_>| !target.anew && silo_build::known(context.home, target).is_none();
    let mut missing: Vec<&Target<'_>> = targets.iter().filter(is_missing).collect();
    if missing.is_empty() || context.check.is_some() || (caches.is_empty() && default_cache::get() == Ok(None)) {
        return layers;
    }
    let warn = |text: String| (context.sink)(Event::Warning { text });
    let trusted = match keys::trusted(context.home) {
        Ok(trusted) => trusted,
        Err(error) => {
            warn(format!("the caches are not asked: {}", silo_base::error_chain::of(&error).join(": ")));
            return layers;
        }
    };
    let built_in = built_in(caches, &trusted);
    if trusted.is_empty() && !caches.is_empty() {
        warn("no image is taken from the caches: there is no key whose signatures count; `silo key trust FILE` adds one".to_owned());
    }
    for cache in caches.iter().chain(&built_in) {
        let location = match location::parse(&cache.location) {
            Ok(location) => location,
            Err(what) => {
                warn(format!("the cache {}: {what}", cache.location));
                continue;
            }
        };
        if context.transport.is_offline() && !matches!(location, Location::Directory(_)) {
            continue;
        }
        let repository = shipping(context, shared).repository(location);
        let asked = Asked { context, shared, cache, repository: &repository, trusted: &trusted };
        let mut left = Vec::new();
        let mut is_lost = false;
        for target in missing {
            match if is_lost { Ok(None) } else { asked.take(target) } {
                Ok(Some(text)) => (context.sink)(Event::Note { text: format!("{}: {text}", target.recipe.name) }),
                Ok(None) => left.push(target),
                Err(error) if error.is_stopped() => return layers,
                Err(error) => {
                    warn(format!("the cache {} failed: {}", cache.location, silo_base::error_chain::of(&error).join(": ")));
                    // A server that does not answer would cost its timeout for each tool.
                    is_lost |=
                        matches!(error, Error::Slow { .. } | Error::Fetch(_) | Error::Registry(silo_fetch::registry::Error::Fetch(_)));
                    left.push(target);
                }
            }
        }
        missing = left;
        if !is_lost && !missing.is_empty() && !trusted.is_empty() {
            layers.add(repository, cache.location.clone());
        }
    }
    layers.trust(trusted);
    layers
}

/// Returns the compiled-in cache, unless its key was revoked or the settings name it.
fn built_in(caches: &[CacheSource], trusted: &[Named]) -> Option<CacheSource> {
    let found = default_cache::get().ok().flatten()?;
    let is_asked = trusted.iter().any(|key| key.public == found.key) && caches.iter().all(|cache| cache.location != found.location);
    is_asked.then_some(CacheSource { location: found.location, push: false })
}

/// A cache that is asked.
struct Asked<'a> {
    context: &'a Context<'a>,
    shared: &'a SharedLock,
    cache: &'a CacheSource,
    repository: &'a Repository<'a>,
    trusted: &'a [Named],
}

impl Asked<'_> {
    /// Takes one image; returns a line about it, or `None` if the cache has no image that counts.
    fn take(&self, target: &Target<'_>) -> Result<Option<String>, Error> {
        let (context, cache) = (self.context, self.cache);
        let drv = silo_build::derivation_of(target);
        let shipping = shipping(context, self.shared);
        let keys: Vec<Public> = self.trusted.iter().map(|key| key.public.clone()).collect();
        let found = if keys.is_empty() { None } else { self.find(&drv)? };
        let Some(found) = found else {
            self.offer(&shipping, target, &keys)?;
            return Ok(None);
        };
        let signers = signatures::signers(self.repository, &found, &keys)?;
        let Some(signer) = signers.first() else {
            self.offer(&shipping, target, &keys)?;
            return Err(wrong(cache, &drv, "its answer is not signed by a key that you trust".to_owned()));
        };
        if !found.contents.derivations.contains(&drv.digest()) || found.contents.arch != target.arch {
            return Err(wrong(cache, &drv, "its answer is the image of another lock or platform".to_owned()));
        }
        let pulled = pull::pull(&shipping, self.repository, &found)?;
        pull::count(&shipping, &found, pulled.image)?;
        let (fetched, size) = (pulled.fetched, units::size(pulled.bytes));
        let by = keys::title(self.trusted, signer);
        Ok(Some(format!("{fetched} of {} layers pulled from {} ({size}), signed by {by}", pulled.layers, cache.location)))
    }

    /// Finds the image of a derivation.
    fn find(&self, drv: &DrvId) -> Result<Option<Found>, Error> {
        match find(self.repository, &tag_of(drv), None, self.context.home.arch()) {
            Err(Error::Absent { name, .. }) if name == tag_of(drv) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Makes the inputs of an image available to the build, as far as the cache has them. Outputs of steps need a signature.
    fn offer(&self, shipping: &silo_ship::Context<'_>, target: &Target<'_>, keys: &[Public]) -> Result<(), Error> {
        let drv = silo_build::derivation_of_inputs(target);
        let Some(found) = vendor::find(self.repository, &drv)? else { return Ok(()) };
        for file in &found.inputs.files {
            let digest = file.pointer.digest;
            self.context.transport.offer(*digest.as_bytes(), self.repository.blob_url(digest));
        }
        let outputs = self.missing_outputs(target, &found.inputs);
        if outputs.is_empty() {
            return Ok(());
        }
        let signatures = signatures::plain(self.repository, found.manifest, keys)?;
        if !signatures.iter().any(Signature::is_by_a_trusted_key) {
            let what = "its outputs of steps with a network are not signed by a key that you trust".to_owned();
            return Err(wrong(self.cache, &drv, what));
        }
        vendor::fetch_outputs(shipping, self.repository, &outputs)?;
        let made = |output: &&Output| {
            let layer = output.layer.manifest.layer;
            silo_build::output_keys(target, output.step, layer).into_iter().map(move |key| (key, layer))
        };
        Ok(realisation::put_many(self.context.store, self.shared, &outputs.iter().flat_map(made).collect::<Vec<_>>())?)
    }

    /// Returns the outputs that the lock pins and that no step made here.
    fn missing_outputs<'o>(&self, target: &Target<'_>, inputs: &'o Inputs) -> Vec<&'o Output> {
        let pinned = target.lock.steps.get(&target.arch);
        let is_pinned = |output: &&Output| {
            let layer = output.layer.manifest.layer;
            pinned.and_then(|steps| steps.get(&Sha256(output.step))).is_some_and(|pin| pin.layer.0 == layer.digest())
        };
        let is_here = |output: &Output| {
            let layer = output.layer.manifest.layer;
            let is_known = |key: &Digest| matches!(realisation::get(self.context.store, key), Ok(realisation::Realisation::Known(known)) if known == layer);
            self.context.store.has(&layer) && silo_build::output_keys(target, output.step, layer).iter().all(is_known)
        };
        inputs.outputs.iter().filter(is_pinned).filter(|output| !is_here(output)).collect()
    }
}

fn wrong(cache: &CacheSource, drv: &DrvId, what: String) -> Error {
    Error::Document { place: format!("{}:{}", cache.location, tag_of(drv)), what }
}
