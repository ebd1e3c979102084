//! Garbage collection: mark from roots, sort by last use, sweep the selected things.
//!
//! Marking and sweeping take the exclusive lock for milliseconds only. Swept things are renamed into stage/ and deleted there after the
//! lock is released. So a crash never leaves half a layer under its name, and no user of the store waits for deletions.
//!
//! Between marking and sweeping the caller selects candidates, without the lock. The selection is marked again and swept only if it is
//! still unneeded and unused since ([`still`]).

use crate::digest::{Digest, LayerId};
use crate::durable::TEMP_PREFIX;
use crate::flock::{self, ExclusiveLock};
use crate::gc_roots::{self, Root, RootError};
use crate::layer;
use crate::layout::{BUILD_LOCK_PREFIX, Store};
use crate::path_error::{PathError, at, if_present};
use crate::realisation::{self, Realisation};
use crate::scratch::{Scratch, sweep_stages};
use crate::usage::LinkCounts;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A user of images and layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// A description of the user, for people: "tool python".
    pub why: String,
    /// The images and layers that it needs.
    pub root: Root,
}

/// An object that can be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    /// A composed image.
    Image(Digest),
    /// A layer.
    Layer(LayerId),
}

/// A thing that no keeper needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The thing.
    pub thing: Object,
    /// The time of the last use, or of creation if no use is recorded.
    pub used: SystemTime,
}

/// Result of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Images and layers.
    pub things: Vec<Object>,
    /// Removed realisations: broken, or of a layer that is missing or removed.
    pub realisations: Vec<Digest>,
    /// Unfinished work of dead processes.
    pub stages: Vec<PathBuf>,
    /// The freed disk space, without unfinished work.
    pub bytes: u64,
}

/// Reason why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A root cannot be read, so the things it keeps are unknown.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Returns all things that no keeper needs, the least recently used first.
///
/// `made_of` maps images to their layers. A layer counts as used when the latest image that has it was used, and images come first among
/// equals. So no cut of the list removes a layer of an image that stays.
pub fn unneeded(
    store: &Store,
    _permission: &ExclusiveLock,
    keepers: &[Keeper],
    made_of: &BTreeMap<Digest, BTreeSet<LayerId>>,
) -> Result<Vec<Candidate>, GcError> {
    let mut used_by_image: BTreeMap<LayerId, SystemTime> = BTreeMap::new();
    let mut candidates = Vec::new();
    for id in images(store)? {
        let used = changed(&store.image(&id))?;
        for layer in made_of.get(&id).into_iter().flatten() {
            let latest = used_by_image.entry(*layer).or_insert(used);
            *latest = used.max(*latest);
        }
        if !keepers.iter().any(|keeper| keeper.root.images.contains(&id)) {
            candidates.push(Candidate { thing: Object::Image(id), used });
        }
    }
    let kept: BTreeSet<LayerId> = keepers.iter().flat_map(|keeper| keeper.root.layers.iter().copied()).collect();
    for id in layer::list(store)? {
        if !kept.contains(&id) {
            let made = changed(&store.layer(&id))?;
            let used = used_by_image.get(&id).map_or(made, |used| made.max(*used));
            candidates.push(Candidate { thing: Object::Layer(id), used });
        }
    }
    candidates.sort_by_key(|candidate| (candidate.used, candidate.thing));
    Ok(candidates)
}

/// Returns the things of `chosen` that are still in `unneeded` with the same time of last use.
pub fn still(chosen: &[Candidate], unneeded: &[Candidate]) -> Vec<Object> {
    let now: BTreeMap<Object, SystemTime> = unneeded.iter().map(|candidate| (candidate.thing, candidate.used)).collect();
    chosen.iter().filter(|chosen| now.get(&chosen.thing) == Some(&chosen.used)).map(|chosen| chosen.thing).collect()
}

/// Returns the path of a thing.
pub fn place(store: &Store, thing: &Object) -> PathBuf {
    match thing {
        Object::Image(id) => store.image(id),
        Object::Layer(id) => store.layer(id),
    }
}

/// Removes things, the realisations that name them, unfinished work of dead processes, and stale lock files.
///
/// The lock is released before the deletion.
pub fn sweep(store: &Store, permission: ExclusiveLock, things: &[Object]) -> Result<Swept, GcError> {
    let mut swept = Swept { realisations: useless(store, things)?, ..Swept::default() };
    // Names first: a realisation must not outlive its layer.
    for key in &swept.realisations {
        let path = store.realisation(key);
        fs::remove_file(&path).map_err(at("remove", &path))?;
    }
    let scratch = Scratch::new(store)?;
    let mut graves = Vec::new();
    // Images first: they are made of layers.
    swept.things = things.to_vec();
    swept.things.sort();
    for (number, thing) in swept.things.iter().enumerate() {
        let path = place(store, thing);
        let grave = scratch.dir().join(number.to_string());
        if_present(fs::rename(&path, &grave).map_err(at("remove", &path)))?;
        graves.push(grave);
    }
    remove_files(&store.realisations(), TEMP_PREFIX)?;
    for kind in gc_roots::kinds(store)? {
        remove_files(&kind, TEMP_PREFIX)?;
    }
    // Build locks are held only together with the store's lock, so none is held now.
    remove_files(&store.locks(), BUILD_LOCK_PREFIX)?;
    flock::remove_stale_pins(store, &permission)?;
    drop(permission);
    swept.bytes = freed(&graves)?;
    drop(scratch);
    swept.stages = sweep_stages(store)?;
    Ok(swept)
}

/// Returns the disk space that removing all `paths` frees.
pub fn freed(paths: &[PathBuf]) -> Result<u64, PathError> {
    let mut ledger = LinkCounts::default();
    paths.iter().map(|path| Ok(ledger.add(path)?.freed)).sum()
}

/// Returns the realisations to remove: broken, or of a layer that is missing or removed.
fn useless(store: &Store, things: &[Object]) -> Result<Vec<Digest>, PathError> {
    let mut useless = Vec::new();
    for key in realisation::list(store)? {
        let useful = match realisation::get(store, &key)? {
            Realisation::Known(id) => store.has(&id) && !things.contains(&Object::Layer(id)),
            Realisation::Absent | Realisation::Broken { .. } => false,
        };
        if !useful {
            useless.push(key);
        }
    }
    Ok(useless)
}

fn changed(path: &Path) -> Result<SystemTime, PathError> {
    fs::metadata(path).and_then(|found| found.modified()).map_err(at("inspect", path))
}

/// Returns all images of the store, sorted.
pub fn images(store: &Store) -> Result<Vec<Digest>, PathError> {
    let dir = store.images();
    let mut ids = Vec::new();
    for item in fs::read_dir(&dir).map_err(at("list", &dir))? {
        let name = item.map_err(at("list", &dir))?.file_name();
        // Ignore entries with other names; they are not ours.
        ids.extend(name.to_str().and_then(|name| Digest::parse(name).ok()));
    }
    ids.sort();
    Ok(ids)
}

fn remove_files(dir: &Path, prefix: &str) -> Result<(), PathError> {
    for item in fs::read_dir(dir).map_err(at("list", dir))? {
        let item = item.map_err(at("list", dir))?;
        if item.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(item.path()).map_err(at("remove", &item.path()))?;
        }
    }
    Ok(())
}
