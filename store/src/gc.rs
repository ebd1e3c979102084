//! Collecting what nothing needs: mark from roots, sweep by age.
//!
//! Planning and sweeping both take the exclusive lock, so nobody reads or adds meanwhile, and a
//! plan shown to a person is not one that is carried out later. Everything is renamed into
//! stage/ before it is deleted: a crash never leaves half a layer under its name.

use crate::digest::{Digest, LayerId};
use crate::durable::TEMP_PREFIX;
use crate::layer;
use crate::layout::{BUILD_LOCK_PREFIX, Store};
use crate::lock::ExclusiveLock;
use crate::path_error::{PathError, at};
use crate::realisation::{self, Realisation};
use crate::roots::{self, Root, RootError};
use crate::scratch::{Scratch, remove_tree, sweep_stages};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Layers nothing keeps.
    pub layers: Vec<LayerId>,
    /// Images nothing keeps.
    pub images: Vec<Digest>,
    /// Realisations whose layer goes or is gone, or that are broken.
    pub realisations: Vec<Digest>,
    /// The disk space this frees, unfinished work not counted.
    pub bytes: u64,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// As planned.
    pub plan: Plan,
    /// Unfinished work of dead processes.
    pub stages: Vec<PathBuf>,
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

/// Returns what a sweep would remove: all that neither `keep` nor a named root holds and that
/// is older than `min_age` at `now`.
pub fn plan(store: &Store, _permission: &ExclusiveLock, keep: &Root, now: SystemTime, min_age: Duration) -> Result<Plan, GcError> {
    let mut keep = keep.clone();
    for (_, root) in roots::list(store)? {
        keep.images.extend(root.images);
        keep.layers.extend(root.layers);
    }
    let is_old = |path: &Path| -> Result<bool, PathError> {
        let changed = fs::metadata(path).and_then(|found| found.modified()).map_err(at("inspect", path))?;
        // One from the future is young.
        Ok(now.duration_since(changed).is_ok_and(|age| age >= min_age))
    };
    let mut plan = Plan::default();
    let mut left = BTreeSet::new();
    for id in layer::list(store)? {
        if !keep.layers.contains(&id) && is_old(&store.layer(&id))? {
            plan.layers.push(id);
        } else {
            left.insert(id);
        }
    }
    for id in images(store)? {
        if !keep.images.contains(&id) && is_old(&store.image(&id))? {
            plan.images.push(id);
        }
    }
    for key in realisation::list(store)? {
        let useful = match realisation::get(store, &key)? {
            Realisation::Known(id) => left.contains(&id),
            Realisation::Absent | Realisation::Broken { .. } => false,
        };
        if !useful {
            plan.realisations.push(key);
        }
    }
    let mut links = HashMap::new();
    for path in doomed(store, &plan) {
        count(&path, &mut links)?;
    }
    plan.bytes = links.values().filter(|file| file.seen >= file.names).map(|file| file.bytes).sum();
    Ok(plan)
}

/// Removes what a plan says, unfinished work of dead processes, and stale lock files.
pub fn sweep(store: &Store, _permission: &ExclusiveLock, plan: &Plan) -> Result<Swept, GcError> {
    // Names first: a realisation must never outlive its layer.
    for key in &plan.realisations {
        let path = store.realisation(key);
        fs::remove_file(&path).map_err(at("remove", &path))?;
    }
    let scratch = Scratch::new(store)?;
    for path in doomed(store, plan) {
        let grave = scratch.dir().join("doomed");
        fs::rename(&path, &grave).map_err(at("remove", &path))?;
        remove_tree(&grave)?;
    }
    drop(scratch);
    let stages = sweep_stages(store)?;
    remove_files(&store.realisations(), TEMP_PREFIX)?;
    // Build locks are held only together with the store's lock, so nobody holds one now.
    remove_files(&store.locks(), BUILD_LOCK_PREFIX)?;
    Ok(Swept { plan: plan.clone(), stages })
}

fn doomed(store: &Store, plan: &Plan) -> Vec<PathBuf> {
    // Images first: they are made of layers.
    let images = plan.images.iter().map(|id| store.image(id));
    images.chain(plan.layers.iter().map(|id| store.layer(id))).collect()
}

fn images(store: &Store) -> Result<Vec<Digest>, PathError> {
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

/// A file on disk: how many names it has, how many of them go, what it takes.
struct Links {
    names: u64,
    seen: u64,
    bytes: u64,
}

fn count(path: &Path, links: &mut HashMap<(u64, u64), Links>) -> Result<(), PathError> {
    let found = fs::symlink_metadata(path).map_err(at("inspect", path))?;
    let names = if found.is_dir() { 1 } else { found.nlink() };
    // A block is 512 bytes here whatever the file system's own.
    let bytes = found.blocks() * 512;
    let file = links.entry((found.dev(), found.ino())).or_insert(Links { names, seen: 0, bytes });
    file.seen += 1;
    if !found.is_dir() {
        return Ok(());
    }
    for item in fs::read_dir(path).map_err(at("list", path))? {
        count(&item.map_err(at("list", path))?.path(), links)?;
    }
    Ok(())
}
