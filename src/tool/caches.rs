//! Binary caches: repositories that are asked for an image before it is built.
//!
//! An image is found by its derivation, which follows from the lock alone. What a cache answers counts only if a key that this user trusts
//! signed it, and if it names this derivation. So a cache can withhold an image and be slow; it cannot give another one. Whatever is wrong
//! with an answer is reported, and the image is built.

use silo_store::flock::SharedLock;

use silo_base::event::Event;
use silo_base::system::Arch;
use silo_base::units;
use silo_build::Target;
use silo_model::config::CacheSource;
use silo_model::derivation::DrvId;
use silo_model::oci::location;
use silo_ship::find::find;
use silo_ship::push::tag_of;
use silo_ship::{Error, pull, signatures};
use silo_sign::key::Public;

use super::Context;
use super::keys::{self, Named};

/// Takes the images of these tools from the caches, as far as they have them. Failures are reported, and cost nothing but time.
pub fn take(context: &Context<'_>, shared: &SharedLock, caches: &[CacheSource], targets: &[Target<'_>]) {
    let is_missing = |target: &&Target<'_>| !target.anew && silo_build::known(context.home, target).is_none();
    let mut missing: Vec<&Target<'_>> = targets.iter().filter(is_missing).collect();
    if caches.is_empty() || missing.is_empty() || context.check.is_some() {
        return;
    }
    let warn = |text: String| (context.sink)(Event::Warning { text });
    let trusted = match keys::trusted(context.home) {
        Ok(trusted) if trusted.is_empty() => {
            return warn("the caches are not asked: there is no key whose signatures count; `silo key trust FILE` adds one".to_owned());
        }
        Ok(trusted) => trusted,
        Err(error) => return warn(format!("the caches are not asked: {}", silo_base::error_chain::of(&error).join(": "))),
    };
    for cache in caches {
        let mut left = Vec::new();
        let mut is_lost = false;
        for target in missing {
            match if is_lost { Ok(None) } else { take_one(context, shared, cache, target, &trusted) } {
                Ok(Some(text)) => (context.sink)(Event::Note { text: format!("{}: {text}", target.recipe.name) }),
                Ok(None) => left.push(target),
                Err(error) if error.is_stopped() => return,
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
    }
}

/// Takes one image from a cache; returns a line about it, or `None` if the cache has no image that counts.
fn take_one(
    context: &Context<'_>,
    shared: &SharedLock,
    cache: &CacheSource,
    target: &Target<'_>,
    trusted: &[Named],
) -> Result<Option<String>, Error> {
    let drv = silo_build::derivation_of(target);
    let location = location::parse(&cache.location).map_err(|what| wrong(cache, &drv, what))?;
    let shipping = shipping(context, shared);
    let repository = shipping.repository(location);
    let found = match find(&repository, &tag_of(&drv), None, Arch::host()) {
        Err(Error::Absent { name, .. }) if name == tag_of(&drv) => return Ok(None),
        found => found?,
    };
    let keys: Vec<Public> = trusted.iter().map(|key| key.public.clone()).collect();
    let signers = signatures::signers(&repository, &found, &keys)?;
    let Some(signer) = signers.first() else {
        return Err(wrong(cache, &drv, "its answer is not signed by a key that you trust".to_owned()));
    };
    if !found.contents.derivations.contains(&drv.digest()) || found.contents.arch != Arch::host() {
        return Err(wrong(cache, &drv, "its answer is the image of another lock or platform".to_owned()));
    }
    let pulled = pull::pull(&shipping, &repository, &found)?;
    pull::count(&shipping, &found, pulled.image)?;
    let (fetched, size) = (pulled.fetched, units::size(pulled.bytes));
    let by = keys::title(trusted, signer);
    Ok(Some(format!("{fetched} of {} layers pulled from {} ({size}), signed by {by}", pulled.layers, cache.location)))
}

fn wrong(cache: &CacheSource, drv: &DrvId, what: String) -> Error {
    Error::Document { place: format!("{}:{}", cache.location, tag_of(drv)), what }
}

/// Returns the environment of a push or pull.
pub fn shipping<'a>(context: &'a Context<'_>, shared: &'a SharedLock) -> silo_ship::Context<'a> {
    silo_ship::Context {
        home: context.home,
        store: context.store,
        lock: shared,
        transport: context.transport,
        user_home: &context.outside.user_home,
        jobs: context.jobs,
        sink: context.sink,
        stop: context.stop,
    }
}
