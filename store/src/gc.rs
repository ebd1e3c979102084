//! Collecting what nothing needs: mark from roots, order by last use, sweep what was chosen.
//!
//! Marking and burying take the exclusive lock, and each is a matter of milliseconds: what goes is
//! renamed into stage/ and deleted there when the lock is free again. So a crash never leaves half a
//! layer under its name, and whoever wants to use the store does not wait for files to be deleted.
//!
//! Between marking and burying the caller chooses, without the lock. What was chosen is marked again
//! and goes only if it is still unneeded and was not used meanwhile ([`still`]).

use crate::digest::{Digest, LayerId};
use crate::durable::TEMP_PREFIX;
use crate::layer;
use crate::layout::{BUILD_LOCK_PREFIX, Store};
use crate::lock::{self, ExclusiveLock};
use crate::path_error::{PathError, at, if_present};
use crate::realisation::{self, Realisation};
use crate::roots::{Root, RootError};
use crate::scratch::{Scratch, sweep_stages};
use crate::usage::Ledger;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What is kept, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// Who needs it, for people: "tool python".
    pub why: String,
    /// What it needs.
    pub root: Root,
}

/// What can be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A composed image.
    Image(Digest),
    /// A layer.
    Layer(LayerId),
}

/// Something that nothing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it is.
    pub thing: Thing,
    /// When it was used last; where nothing tells, when it was made.
    pub used: SystemTime,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Images and layers.
    pub things: Vec<Thing>,
    /// Realisations whose layer went or was gone, or that were broken.
    pub realisations: Vec<Digest>,
    /// Unfinished work of dead processes.
    pub stages: Vec<PathBuf>,
    /// The disk space this freed, unfinished work not counted.
    pub bytes: u64,
}

/// Why nothing, or not everything, was collected.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A root cannot be read, so what it keeps is unknown.
    #[error(transparent)]
    Root(#[from] RootError),
}

/// Returns what no keeper needs, the least recently used first.
///
/// `made_of` says of images what layers they have. A layer is as fresh as the freshest image that has it, and at the
/// same age images come first; so whatever is cut off at the end of the list, no image that stays loses a layer.
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
            candidates.push(Candidate { thing: Thing::Image(id), used });
        }
    }
    let kept: BTreeSet<LayerId> = keepers.iter().flat_map(|keeper| keeper.root.layers.iter().copied()).collect();
    for id in layer::list(store)? {
        if !kept.contains(&id) {
            let made = changed(&store.layer(&id))?;
            let used = used_by_image.get(&id).map_or(made, |used| made.max(*used));
            candidates.push(Candidate { thing: Thing::Layer(id), used });
        }
    }
    candidates.sort_by_key(|candidate| (candidate.used, candidate.thing));
    Ok(candidates)
}

/// Returns those of `chosen` that are still in `unneeded` as they were chosen.
pub fn still(chosen: &[Candidate], unneeded: &[Candidate]) -> Vec<Thing> {
    let now: BTreeMap<Thing, SystemTime> = unneeded.iter().map(|candidate| (candidate.thing, candidate.used)).collect();
    chosen.iter().filter(|chosen| now.get(&chosen.thing) == Some(&chosen.used)).map(|chosen| chosen.thing).collect()
}

/// Returns where a thing lies.
pub fn place(store: &Store, thing: &Thing) -> PathBuf {
    match thing {
        Thing::Image(id) => store.image(id),
        Thing::Layer(id) => store.layer(id),
    }
}

/// Removes things, the realisations that named them, unfinished work of dead processes, and stale lock files.
///
/// The lock is given back before anything is deleted.
pub fn sweep(store: &Store, permission: ExclusiveLock, things: &[Thing]) -> Result<Swept, GcError> {
    let mut swept = Swept { realisations: useless(store, things)?, ..Swept::default() };
    // Names first: a realisation must never outlive its layer.
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
    // Build locks are held only together with the store's lock, so nobody holds one now.
    remove_files(&store.locks(), BUILD_LOCK_PREFIX)?;
    lock::remove_stale_pins(store, &permission)?;
    drop(permission);
    swept.bytes = freed(&graves)?;
    drop(scratch);
    swept.stages = sweep_stages(store)?;
    Ok(swept)
}

/// Returns the disk space that removing all of these frees.
pub fn freed(paths: &[PathBuf]) -> Result<u64, PathError> {
    let mut ledger = Ledger::default();
    paths.iter().map(|path| Ok(ledger.add(path)?.freed)).sum()
}

/// Returns the realisations whose layer goes or is gone, or that are broken.
fn useless(store: &Store, things: &[Thing]) -> Result<Vec<Digest>, PathError> {
    let mut useless = Vec::new();
    for key in realisation::list(store)? {
        let useful = match realisation::get(store, &key)? {
            Realisation::Known(id) => store.has(&id) && !things.contains(&Thing::Layer(id)),
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
        // Anything else in here is not ours to touch.
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
