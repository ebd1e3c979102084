//! Files locked with flock(2).
//!
//! The kernel ties such a lock to the open file description, not to the process. A process forked during the lock holds a copy of the file
//! descriptor until its exec, so closing ours would not release the lock until then. So the process that took the lock unlocks it
//! explicitly.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};

/// A file that is locked until this is dropped.
#[derive(Debug)]
pub struct LockedFile {
    file: File,
    pid: u32,
}

impl LockedFile {
    /// Locks the file exclusively; waits for all other holders.
    pub fn exclusive(file: File) -> io::Result<LockedFile> {
        patiently(|| file.lock())?;
        Ok(LockedFile::of(file))
    }

    /// Locks the file for sharing; waits for an exclusive holder.
    pub fn shared(file: File) -> io::Result<LockedFile> {
        patiently(|| file.lock_shared())?;
        Ok(LockedFile::of(file))
    }

    /// Locks the file exclusively without waiting; `None` if it is locked.
    pub fn try_exclusive(file: File) -> io::Result<Option<LockedFile>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(LockedFile::of(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Upgrades a shared lock to an exclusive one without waiting; `false` if there are other holders.
    ///
    /// The kernel may release the shared lock in between, so after `false` the file may be unlocked.
    pub fn try_upgrade(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn of(file: File) -> LockedFile {
        LockedFile { file, pid: std::process::id() }
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl DerefMut for LockedFile {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // A forked process only closes its copy: the lock belongs to its parent.
        if self.pid == std::process::id() {
            // Closing the file also unlocks it, unless there are copies of the descriptor.
            let _ = self.file.unlock();
        }
    }
}

/// Retries a wait that a signal handler interrupted.
fn patiently(mut wait: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match wait() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_holder_although_a_copy_of_the_descriptor_lives() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let file = File::create(&path).expect("created");
        let copy = file.try_clone().expect("copied");
        let held = LockedFile::exclusive(file).expect("locked");
        let again = || LockedFile::try_exclusive(File::open(&path).expect("opened")).expect("tried");
        assert!(again().is_none());
        drop(held);
        assert!(again().is_some());
        drop(copy);
    }
}
