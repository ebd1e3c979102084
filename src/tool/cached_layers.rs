//! Single layers from the caches: a build asks for the layer of each missing package and step before it makes the layer.
//!
//! A cache names an image that has the layer of a derivation. The signed contents of that image give the layers of all its derivations, so
//! one answer serves for many layers, and few requests are made. An image without the signature of a trusted key counts as none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use silo_store::digest::{Digest, LayerId};
use silo_store::flock::SharedLock;
use silo_store::realisation;

use silo_base::error_chain;
use silo_base::event::Event;
use silo_base::thread;
use silo_base::units;
use silo_build::LayerSource;
use silo_fetch::registry::repository::Repository;
use silo_model::oci::contents::Layer;
use silo_ship::{Error, find, pull, signatures};
use silo_sign::key::Public;

use super::Context;
use super::keys::{self, Named};
use super::shipping::shipping;

/// Requests at the same time.
const ASKERS: usize = 8;

/// The caches of a build.
pub struct CachedLayers<'a> {
    context: &'a Context<'a>,
    shared: &'a SharedLock,
    caches: Vec<Cache<'a>>,
    trusted: Vec<Named>,
}

/// A cache, and its answers so far.
struct Cache<'a> {
    repository: Repository<'a>,
    location: String,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    /// The layers of the images that were read, by derivation, each with the title of the key that signed it.
    layers: BTreeMap<Digest, (Layer, String)>,
    /// The derivations that were asked for.
    asked: BTreeSet<Digest>,
    /// The manifests that were read.
    read: BTreeSet<Digest>,
    /// True after a failure: the cache is not asked again.
    is_lost: bool,
}

impl<'a> CachedLayers<'a> {
    /// Returns a source without caches.
    pub fn new(context: &'a Context<'_>, shared: &'a SharedLock) -> CachedLayers<'a> {
        CachedLayers { context, shared, caches: Vec::new(), trusted: Vec::new() }
    }

    /// Adds a cache, which is asked after the earlier ones.
    pub fn add(&mut self, repository: Repository<'a>, location: String) {
        self.caches.push(Cache { repository, location, answers: Mutex::default() });
    }

    /// Sets the keys whose signatures count.
    pub fn trust(&mut self, trusted: Vec<Named>) {
        self.trusted = trusted;
    }

    /// Takes layers from one cache, and returns those that it took.
    fn take(&self, cache: &Cache<'_>, wanted: &[(Digest, Option<LayerId>)]) -> Result<BTreeMap<Digest, LayerId>, Error> {
        let derivations: Vec<Digest> = wanted.iter().map(|(drv, _)| *drv).collect();
        self.ask(cache, &derivations)?;
        let found: Vec<(Digest, Layer, String)> = {
            let answers = cache.answers();
            let is_it = |layer: &Layer, pin: Option<LayerId>| pin.is_none_or(|pin| pin == layer.manifest.layer);
            let of = |(drv, pin): &(Digest, Option<LayerId>)| {
                answers.layers.get(drv).filter(|(layer, _)| is_it(layer, *pin)).map(|(layer, by)| (*drv, layer.clone(), by.clone()))
            };
            wanted.iter().filter_map(of).collect()
        };
        if found.is_empty() {
            return Ok(BTreeMap::new());
        }
        let shipping = shipping(self.context, self.shared);
        let all: BTreeMap<LayerId, &Layer> = found.iter().map(|(_, layer, _)| (layer.manifest.layer, layer)).collect();
        let fetched: Vec<&Layer> = all.into_values().filter(|layer| !pull::is_here(&shipping, layer)).collect();
        pull::fetch(&shipping, &cache.repository, &fetched)?;
        let taken: BTreeMap<Digest, LayerId> = found.iter().map(|(drv, layer, _)| (*drv, layer.manifest.layer)).collect();
        // This syncs the layers first.
        realisation::put_many(self.context.store, self.shared, &taken.iter().map(|(drv, layer)| (*drv, *layer)).collect::<Vec<_>>())?;
        if !fetched.is_empty() {
            let size = units::size(fetched.iter().map(|layer| layer.blob.size).sum());
            let signers: BTreeSet<&str> = found.iter().map(|(.., by)| by.as_str()).collect();
            let by = Vec::from_iter(signers).join(", ");
            let text = format!("{} single layers pulled from {} ({size}), signed by {by}", fetched.len(), cache.location);
            (self.context.sink)(Event::Note { text });
        }
        Ok(taken)
    }

    /// Learns the layers of derivations, as far as the cache has them; asks once for each.
    fn ask(&self, cache: &Cache<'_>, derivations: &[Digest]) -> Result<(), Error> {
        // The first answer may serve for all others.
        let Some((first, others)) = derivations.split_first() else { return Ok(()) };
        self.ask_one(cache, *first)?;
        let next = Mutex::new(others.iter());
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let error = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        thread::together(ASKERS.min(others.len()).max(1), || {
            while error().is_none() {
                let Some(drv) = next.lock().unwrap_or_else(PoisonError::into_inner).next().copied() else { break };
                if let Err(refused) = self.ask_one(cache, drv) {
                    let _first = error().get_or_insert(refused);
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn ask_one(&self, cache: &Cache<'_>, derivation: Digest) -> Result<(), Error> {
        {
            let mut answers = cache.answers();
            // The image that another derivation led to may have this layer, too.
            if answers.layers.contains_key(&derivation) || !answers.asked.insert(derivation) {
                return Ok(());
            }
        }
        let Some(manifest) = cache.repository.with_step(derivation)? else { return Ok(()) };
        // Under the lock, so that several derivations of one image read its contents once.
        let mut answers = cache.answers();
        if !answers.read.insert(Digest::of(&manifest)) {
            return Ok(());
        }
        let place = format!("{}@sha256:{}", cache.location, Digest::of(&manifest));
        let found = find::of_bytes(&cache.repository, place, &manifest)?;
        let keys: Vec<Public> = self.trusted.iter().map(|key| key.public.clone()).collect();
        let signers = signatures::signers(&cache.repository, &found, &keys)?;
        let Some(signer) = signers.first() else {
            let what = "an image with single layers is not signed by a key that you trust".to_owned();
            return Err(Error::Document { place: found.place, what });
        };
        if found.contents.arch != self.context.home.arch() {
            return Ok(());
        }
        let by = keys::title(&self.trusted, signer);
        for layer in found.contents.layers {
            if let Ok(drv) = Digest::parse(&layer.manifest.record.derivation) {
                answers.layers.entry(drv).or_insert_with(|| (layer, by.clone()));
            }
        }
        Ok(())
    }
}

impl LayerSource for CachedLayers<'_> {
    fn bring(&self, derivations: &[(Digest, Option<LayerId>)]) -> BTreeMap<Digest, LayerId> {
        let mut all = BTreeMap::new();
        for cache in &self.caches {
            let left: Vec<_> = derivations.iter().filter(|(drv, _)| !all.contains_key(drv)).copied().collect();
            if left.is_empty() || cache.answers().is_lost {
                continue;
            }
            match self.take(cache, &left) {
                Ok(taken) => all.extend(taken),
                Err(error) => {
                    cache.answers().is_lost = true;
                    if !error.is_stopped() {
                        let text = format!("the cache {} failed: {}", cache.location, error_chain::of(&error).join(": "));
                        (self.context.sink)(Event::Warning { text });
                    }
                }
            }
        }
        all
    }
}

impl Cache<'_> {
    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
