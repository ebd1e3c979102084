//! Permissions as values: the store's lock, shared to use it and exclusive to collect, one lock per
//! derivation, so that two processes build a thing once, and pins, which keep an image for a run.
//!
//! Locks are flock(2) on files in locks/: the kernel drops them when their holder dies. Build locks
//! and pins are taken only while the store's lock is shared, so gc may remove files nobody holds.
//! A pin outlasts the shared lock: a sandbox that runs for hours keeps its image and nothing else.

use crate::digest::Digest;
use crate::held::Held;
use crate::layout::{PIN_PREFIX, Store};
use crate::path_error::{PathError, at, if_present};
use crate::private;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Permission to read the store and add to it; nothing is collected while one is held.
#[derive(Debug)]
pub struct SharedLock {
    _held: Held,
}

/// Permission to remove from the store; nobody else uses it meanwhile.
#[derive(Debug)]
pub struct ExclusiveLock {
    _held: Held,
}

/// Permission to build one derivation; no other process builds it meanwhile.
#[derive(Debug)]
pub struct BuildLock {
    _held: Held,
}

/// Keeps an image, with what it is made of, from being collected as long as it is held.
#[derive(Debug)]
pub struct Pin {
    _held: Held,
}

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its program and arguments, empty where they cannot be read.
    pub command: Vec<String>,
}

/// How often a lock that is waited for is tried; short beside anything a person notices.
const RETRY: Duration = Duration::from_millis(5);

/// Waits until nothing is being collected.
pub fn share(store: &Store) -> Result<SharedLock, PathError> {
    let path = store.store_lock();
    let held = Held::shared(open(&path)?).map_err(at("lock", &path))?;
    Ok(SharedLock { _held: held })
}

/// Waits until nobody uses the store.
pub fn exclude(store: &Store) -> Result<ExclusiveLock, PathError> {
    let path = store.store_lock();
    let held = Held::exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(ExclusiveLock { _held: held })
}

/// Returns the exclusive lock, or `None` while somebody uses the store.
pub fn try_exclude(store: &Store) -> Result<Option<ExclusiveLock>, PathError> {
    let path = store.store_lock();
    let held = Held::try_exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(held.map(|held| ExclusiveLock { _held: held }))
}

/// Returns the exclusive lock as soon as nobody uses the store, or `None` when `patience` is at its end.
pub fn exclude_within(store: &Store, patience: Duration) -> Result<Option<ExclusiveLock>, PathError> {
    let began = Instant::now();
    loop {
        match try_exclude(store)? {
            None if began.elapsed() < patience => thread::sleep(RETRY),
            done => return Ok(done),
        }
    }
}

/// Keeps an image from being collected; whoever takes a pin looks afterwards whether the image is there.
pub fn pin(store: &Store, _permission: &SharedLock, image: &Digest) -> Result<Pin, PathError> {
    let path = store.pin(image);
    let held = Held::shared(open(&path)?).map_err(at("lock", &path))?;
    Ok(Pin { _held: held })
}

/// Returns the pinned images, each with the processes that run it.
///
/// Whoever holds the exclusive lock may rely on it, since a pin is taken under the shared one; to others it is news.
pub fn pins(store: &Store) -> Result<BTreeMap<Digest, Vec<Holder>>, PathError> {
    let mut pinned = BTreeMap::new();
    for image in pin_files(store)? {
        let path = store.pin(&image);
        let Some(file) = if_present(File::open(&path).map_err(at("open", &path)))? else { continue };
        if Held::try_exclusive(file).map_err(at("lock", &path))?.is_none() {
            pinned.insert(image, holders(&path));
        }
    }
    Ok(pinned)
}

/// Removes the files of pins that nobody holds.
pub(crate) fn remove_stale_pins(store: &Store, _permission: &ExclusiveLock) -> Result<(), PathError> {
    let held = pins(store)?;
    for image in pin_files(store)?.into_iter().filter(|image| !held.contains_key(image)) {
        let path = store.pin(&image);
        fs::remove_file(&path).map_err(at("remove", &path))?;
    }
    Ok(())
}

fn pin_files(store: &Store) -> Result<Vec<Digest>, PathError> {
    let dir = store.locks();
    let mut images = Vec::new();
    for item in fs::read_dir(&dir).map_err(at("list", &dir))? {
        let name = item.map_err(at("list", &dir))?.file_name();
        images.extend(name.to_str().and_then(|name| name.strip_prefix(PIN_PREFIX)).and_then(|hex| Digest::parse(hex).ok()));
    }
    Ok(images)
}

/// Returns the processes that hold the store's lock, as far as the system tells.
pub fn users(store: &Store) -> Vec<Holder> {
    holders(&store.store_lock())
}

/// Returns who holds a lock on a file: what the kernel lists by the file's number, and has it open.
fn holders(path: &Path) -> Vec<Holder> {
    let number = fs::metadata(path).map(|found| found.ino());
    let (Ok(number), Ok(locks)) = (number, fs::read_to_string("/proc/locks")) else { return Vec::new() };
    let suffix = format!(":{number}");
    let fields = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // `1: FLOCK ADVISORY READ 1234 08:01:5678 0 EOF`; one that waits has an arrow in the second place.
    let of = |fields: Vec<&str>| match fields[..] {
        [_, "FLOCK", _, _, pid, file, ..] if file.ends_with(&suffix) => pid.parse::<u32>().ok(),
        _ => None,
    };
    let pids: BTreeSet<u32> = fields.filter_map(of).filter(|pid| *pid != std::process::id()).collect();
    pids.into_iter().filter(|pid| has_open(*pid, path)).map(|pid| Holder { pid, command: command_of(pid) }).collect()
}

fn has_open(pid: u32, path: &Path) -> bool {
    let same = |link: fs::DirEntry| fs::metadata(link.path()).ok().zip(fs::metadata(path).ok());
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    links.filter_map(same).any(|(one, other)| (one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn command_of(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Waits until nobody else builds the derivation `key`.
pub fn build(store: &Store, _permission: &SharedLock, key: &Digest) -> Result<BuildLock, PathError> {
    let path = store.build_lock(key);
    let held = Held::exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(BuildLock { _held: held })
}

/// Returns the lock of the derivation `key`, or `None` while somebody else builds it.
pub fn try_build(store: &Store, _permission: &SharedLock, key: &Digest) -> Result<Option<BuildLock>, PathError> {
    let path = store.build_lock(key);
    let held = Held::try_exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(held.map(|held| BuildLock { _held: held }))
}

fn open(path: &Path) -> Result<File, PathError> {
    private::open(path).map_err(at("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_excludes_whom() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));

        let shared = share(&store).unwrap();
        let also = share(&store).unwrap();
        assert!(try_exclude(&store).unwrap().is_none());

        let building = build(&store, &shared, &one).unwrap();
        assert!(try_build(&store, &also, &one).unwrap().is_none());
        assert!(try_build(&store, &also, &two).unwrap().is_some());
        drop(building);
        assert!(try_build(&store, &also, &one).unwrap().is_some());

        drop((shared, also));
        assert!(try_exclude(&store).unwrap().is_some());
    }

    #[test]
    fn a_pin_outlasts_the_shared_lock_and_goes_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let shared = share(&store).unwrap();
        let (first, also, other) =
            (pin(&store, &shared, &one).unwrap(), pin(&store, &shared, &one).unwrap(), pin(&store, &shared, &two).unwrap());
        drop(shared);
        let exclusive = try_exclude(&store).unwrap().unwrap();
        let images = || pins(&store).unwrap().into_keys().collect::<BTreeSet<_>>();
        assert_eq!(images(), BTreeSet::from([one, two]));
        drop((first, other));
        assert_eq!(images(), BTreeSet::from([one]));
        drop(also);
        assert_eq!(images(), BTreeSet::new());
        remove_stale_pins(&store, &exclusive).unwrap();
        assert!(!store.pin(&one).exists());
    }
}
