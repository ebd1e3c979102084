//! Permissions as values: the store's lock, shared to use it and exclusive to collect, and one
//! lock per derivation, so that two processes build a thing once.
//!
//! Locks are flock(2) on files in locks/: the kernel drops them when their holder dies. A build
//! lock is taken only while the store's lock is shared, so gc may remove build lock files.

use crate::digest::Digest;
use crate::layout::Store;
use crate::path_error::{PathError, at};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Permission to read the store and add to it; nothing is collected while one is held.
#[derive(Debug)]
pub struct SharedLock {
    _file: File,
}

/// Permission to remove from the store; nobody else uses it meanwhile.
#[derive(Debug)]
pub struct ExclusiveLock {
    _file: File,
}

/// Permission to build one derivation; no other process builds it meanwhile.
#[derive(Debug)]
pub struct BuildLock {
    _file: File,
}

/// Waits until nothing is being collected.
pub fn share(store: &Store) -> Result<SharedLock, PathError> {
    let path = store.store_lock();
    let file = open(&path)?;
    patiently(|| file.lock_shared()).map_err(at("lock", &path))?;
    Ok(SharedLock { _file: file })
}

/// Waits until nobody uses the store.
pub fn exclude(store: &Store) -> Result<ExclusiveLock, PathError> {
    let path = store.store_lock();
    let file = open(&path)?;
    patiently(|| file.lock()).map_err(at("lock", &path))?;
    Ok(ExclusiveLock { _file: file })
}

/// Returns the exclusive lock, or `None` while somebody uses the store.
pub fn try_exclude(store: &Store) -> Result<Option<ExclusiveLock>, PathError> {
    let path = store.store_lock();
    let file = open(&path)?;
    let locked = try_lock(&file).map_err(at("lock", &path))?;
    Ok(locked.then_some(ExclusiveLock { _file: file }))
}

/// Waits until nobody else builds the derivation `key`.
pub fn build(store: &Store, _permission: &SharedLock, key: &Digest) -> Result<BuildLock, PathError> {
    let path = store.build_lock(key);
    let file = open(&path)?;
    patiently(|| file.lock()).map_err(at("lock", &path))?;
    Ok(BuildLock { _file: file })
}

/// Returns the lock of the derivation `key`, or `None` while somebody else builds it.
pub fn try_build(store: &Store, _permission: &SharedLock, key: &Digest) -> Result<Option<BuildLock>, PathError> {
    let path = store.build_lock(key);
    let file = open(&path)?;
    let locked = try_lock(&file).map_err(at("lock", &path))?;
    Ok(locked.then_some(BuildLock { _file: file }))
}

/// Locks a file at once, or answers `false` where another holds it.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open(path: &Path) -> Result<File, PathError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(at("open", path))
}

/// Waits again when a signal handler ran meanwhile.
fn patiently(mut wait: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            done => return done,
        }
    }
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
}
