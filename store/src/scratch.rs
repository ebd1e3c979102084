//! Private directories under stage/ for work that may be abandoned at any time.
//!
//! Each `stage/<name>/` has a `stage/<name>.lock`, which is made before it, removed after it, and held with flock(2) while its owner lives.
//! So the holder of the lock may remove the directory.

use crate::layout::Store;
use crate::locked_file::LockedFile;
use crate::path_error::{PathError, at, if_present};
use crate::private::{self, make_dir};
use crate::removal::remove_tree;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A private directory, removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    lock: PathBuf,
    _held: LockedFile,
}

impl Scratch {
    /// Makes an empty private directory.
    pub(crate) fn new(store: &Store) -> Result<Scratch, PathError> {
        loop {
            let name = format!("{}-{}", std::process::id(), crate::durable::next_number());
            let dir = store.stages().join(&name);
            let lock = store.stages().join(name + LOCK_SUFFIX);
            let held = match private::create_new(&lock) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(at("create", &lock))?,
            };
            // A sweep may have locked and removed the file before us.
            let Some(held) = LockedFile::try_exclusive(held).map_err(at("lock", &lock))? else { continue };
            if is_unlinked(&held, &lock)? {
                continue;
            }
            make_dir(&dir)?;
            return Ok(Scratch { dir, lock, _held: held });
        }
    }

    /// Returns the directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Drop cannot return an error; the next sweep removes leftovers.
        if remove_tree(&self.dir).is_ok() {
            let _ = fs::remove_file(&self.lock);
        }
    }
}

/// Moves a path on the store's file system to stage/, as if a dead process had left it there; the next sweep removes it.
pub fn abandon(store: &Store, path: &Path) -> Result<(), PathError> {
    loop {
        let grave = store.stages().join(format!("left-{}-{}", std::process::id(), crate::durable::next_number()));
        // A dead process with this id may have left one.
        if grave.symlink_metadata().is_ok() {
            continue;
        }
        return if_present(fs::rename(path, &grave).map_err(at("remove", path))).map(|_| ());
    }
}

/// Removes leftovers of dead processes under stage/; returns the removed directories.
pub fn sweep_stages(store: &Store) -> Result<Vec<PathBuf>, PathError> {
    let stages = store.stages();
    let mut removed = Vec::new();
    let mut names: Vec<OsString> = Vec::new();
    for item in fs::read_dir(&stages).map_err(at("list", &stages))? {
        names.push(item.map_err(at("list", &stages))?.file_name());
    }
    names.sort();
    for name in names {
        let path = stages.join(&name);
        match name.to_string_lossy().strip_suffix(LOCK_SUFFIX) {
            Some(stem) => {
                let dir = stages.join(stem);
                let Some(file) = if_present(OpenOptions::new().read(true).open(&path).map_err(at("open", &path)))? else {
                    continue;
                };
                let Some(_ours) = LockedFile::try_exclusive(file).map_err(at("lock", &path))? else { continue };
                if dir.symlink_metadata().is_ok() {
                    remove_tree(&dir)?;
                    removed.push(dir);
                }
                if_present(fs::remove_file(&path).map_err(at("remove", &path)))?;
            }
            // A lock is made before its directory and removed after it.
            None if !stages.join(lock_name(&name)).exists() => {
                remove_tree(&path)?;
                removed.push(path);
            }
            None => {}
        }
    }
    Ok(removed)
}

fn is_unlinked(file: &File, path: &Path) -> Result<bool, PathError> {
    Ok(file.metadata().map_err(at("inspect", path))?.nlink() == 0)
}

fn lock_name(name: &std::ffi::OsStr) -> OsString {
    let mut lock = name.to_os_string();
    lock.push(LOCK_SUFFIX);
    lock
}

const LOCK_SUFFIX: &str = ".lock";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_dead_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let living = Scratch::new(&store).unwrap();
        let dead = store.stages().join("1-1");
        fs::create_dir_all(dead.join("tree/sub")).unwrap();
        fs::write(dead.join("tree/sub/file"), "x").unwrap();
        fs::set_permissions(dead.join("tree/sub"), fs::Permissions::from_mode(0o500)).unwrap();
        fs::write(store.stages().join("1-1.lock"), "").unwrap();
        let stray = store.stages().join("stray");
        fs::create_dir(&stray).unwrap();

        assert_eq!(sweep_stages(&store).unwrap(), [dead, stray]);
        assert!(living.dir().exists());
        let kept = living.dir().to_path_buf();
        drop(living);
        assert!(!kept.exists());
        assert_eq!(fs::read_dir(store.stages()).unwrap().count(), 0);
    }
}
