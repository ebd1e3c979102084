//! Locks as proofs of permission:
//!
//! * the store's lock, shared to use the store and exclusive to collect;
//! * one lock per derivation, so that only one process builds it;
//! * image locks, which keep an image during a run.
//!
//! Locks are flock(2) on files in locks/: the kernel drops them when the holder dies. Build locks and image locks are taken only under the shared
//! lock, so gc may remove files that nobody holds. An image lock outlives the shared lock: a sandbox that runs for hours keeps only its image.

use crate::digest::Digest;
use crate::layout::{IMAGE_LOCK_PREFIX, Store};
use crate::locked_file::LockedFile;
use crate::path_error::{PathError, at, if_present};
use crate::private;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Permission to read the store and add to it; gc waits until it is dropped.
#[derive(Debug)]
pub struct SharedLock {
    _held: LockedFile,
}

/// Permission to remove from the store; no other process uses the store.
#[derive(Debug)]
pub struct ExclusiveLock {
    _held: LockedFile,
}

/// Permission to build one derivation; no other process builds it.
#[derive(Debug)]
pub struct BuildLock {
    _held: LockedFile,
}

/// Protects an image and its layers from gc while it is held.
#[derive(Debug)]
pub struct ImageLock {
    _held: LockedFile,
}

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its program and arguments; empty if they cannot be read.
    pub command: Vec<String>,
}

/// Interval between attempts to take a lock; too short for a person to notice.
const RETRY: Duration = Duration::from_millis(5);

/// Takes the shared lock; waits for a running collection.
pub fn share(store: &Store) -> Result<SharedLock, PathError> {
    let path = store.store_lock();
    let held = LockedFile::shared(private::open_lock(&path).map_err(at("open", &path))?).map_err(at("lock", &path))?;
    Ok(SharedLock { _held: held })
}

/// Takes the exclusive lock; waits for all users of the store.
pub fn exclude(store: &Store) -> Result<ExclusiveLock, PathError> {
    let path = store.store_lock();
    let held = LockedFile::exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(ExclusiveLock { _held: held })
}

/// Returns the exclusive lock, or `None` if the store is in use.
pub fn try_exclude(store: &Store) -> Result<Option<ExclusiveLock>, PathError> {
    let path = store.store_lock();
    let held = LockedFile::try_exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(held.map(|held| ExclusiveLock { _held: held }))
}

/// Returns the exclusive lock once the store is unused, or `None` after `patience`.
pub fn exclude_within(store: &Store, patience: Duration) -> Result<Option<ExclusiveLock>, PathError> {
    let began = Instant::now();
    loop {
        match try_exclude(store)? {
            None if began.elapsed() < patience => thread::sleep(RETRY),
            done => return Ok(done),
        }
    }
}

/// Protects an image from gc. The caller must check afterwards that the image exists.
pub fn lock_image(store: &Store, _permission: &SharedLock, image: &Digest) -> Result<ImageLock, PathError> {
    let path = store.image_lock(image);
    let held = LockedFile::shared(open(&path)?).map_err(at("lock", &path))?;
    Ok(ImageLock { _held: held })
}

/// Returns the pinned images, each with the processes that run it.
///
/// The result is reliable under the exclusive lock, because an image lock is taken under the shared one. Otherwise it may be out of date.
pub fn image_locks(store: &Store) -> Result<BTreeMap<Digest, Vec<Holder>>, PathError> {
    let mut pinned = BTreeMap::new();
    for image in pin_files(store)? {
        let path = store.image_lock(&image);
        let Some(file) = if_present(File::open(&path).map_err(at("open", &path)))? else { continue };
        if LockedFile::try_exclusive(file).map_err(at("lock", &path))?.is_none() {
            pinned.insert(image, holders(&path));
        }
    }
    Ok(pinned)
}

/// Removes lock files of images that no process holds.
pub(crate) fn remove_stale_pins(store: &Store, _permission: &ExclusiveLock) -> Result<(), PathError> {
    let held = image_locks(store)?;
    for image in pin_files(store)?.into_iter().filter(|image| !held.contains_key(image)) {
        let path = store.image_lock(&image);
        fs::remove_file(&path).map_err(at("remove", &path))?;
    }
    Ok(())
}

fn pin_files(store: &Store) -> Result<Vec<Digest>, PathError> {
    let dir = store.locks();
    let mut images = Vec::new();
    for item in fs::read_dir(&dir).map_err(at("list", &dir))? {
        let name = item.map_err(at("list", &dir))?.file_name();
        images.extend(name.to_str().and_then(|name| name.strip_prefix(IMAGE_LOCK_PREFIX)).and_then(|hex| Digest::parse(hex).ok()));
    }
    Ok(images)
}

/// Returns the processes that hold the store's lock, if the system lists them.
pub fn users(store: &Store) -> Vec<Holder> {
    holders(&store.store_lock())
}

/// Returns the holders of a file lock: processes in /proc/locks with the file's inode number that have the file open.
fn holders(path: &Path) -> Vec<Holder> {
    let number = fs::metadata(path).map(|found| found.ino());
    let (Ok(number), Ok(locks)) = (number, fs::read_to_string("/proc/locks")) else { return Vec::new() };
    let suffix = format!(":{number}");
    let fields = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // `1: FLOCK ADVISORY READ 1234 08:01:5678 0 EOF`; a waiting process has an arrow in the second column.
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

/// Waits until no other process builds the derivation `key`.
pub fn build(store: &Store, _permission: &SharedLock, key: &Digest) -> Result<BuildLock, PathError> {
    let path = store.build_lock(key);
    let held = LockedFile::exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(BuildLock { _held: held })
}

/// Returns the lock of the derivation `key`, or `None` if another process builds it.
pub fn try_build(store: &Store, _permission: &SharedLock, key: &Digest) -> Result<Option<BuildLock>, PathError> {
    let path = store.build_lock(key);
    let held = LockedFile::try_exclusive(open(&path)?).map_err(at("lock", &path))?;
    Ok(held.map(|held| BuildLock { _held: held }))
}

fn open(path: &Path) -> Result<File, PathError> {
    private::open(path).map_err(at("open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_locks_exclude_all_others() {
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
        let (first, also, other) = (
            lock_image(&store, &shared, &one).unwrap(),
            lock_image(&store, &shared, &one).unwrap(),
            lock_image(&store, &shared, &two).unwrap(),
        );
        drop(shared);
        let exclusive = try_exclude(&store).unwrap().unwrap();
        let images = || image_locks(&store).unwrap().into_keys().collect::<BTreeSet<_>>();
        assert_eq!(images(), BTreeSet::from([one, two]));
        drop((first, other));
        assert_eq!(images(), BTreeSet::from([one]));
        drop(also);
        assert_eq!(images(), BTreeSet::new());
        remove_stale_pins(&store, &exclusive).unwrap();
        assert!(!store.image_lock(&one).exists());
    }
}
