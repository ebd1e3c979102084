//! Files that are held with flock(2).
//!
//! The kernel ties such a lock to the open file and not to the process: a process that was forked meanwhile has a copy of the
//! descriptor until it executes another program, and closing ours would leave the file locked until then. So the lock is
//! given back by name, by the process that took it.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};

/// A file that is locked until this is dropped.
#[derive(Debug)]
pub struct Held {
    file: File,
    pid: u32,
}

impl Held {
    /// Waits until nobody else holds the file.
    pub fn exclusive(file: File) -> io::Result<Held> {
        patiently(|| file.lock())?;
        Ok(Held::of(file))
    }

    /// Waits until nobody else holds the file exclusively.
    pub fn shared(file: File) -> io::Result<Held> {
        patiently(|| file.lock_shared())?;
        Ok(Held::of(file))
    }

    /// Locks the file at once, or returns `None` where somebody else holds it.
    pub fn try_exclusive(file: File) -> io::Result<Option<Held>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Held::of(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes a shared lock an exclusive one at once, or returns `false` where somebody else holds one.
    ///
    /// The kernel may give the shared one up on the way, so `false` leaves the file locked or not.
    pub fn try_upgrade(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn of(file: File) -> Held {
        Held { file, pid: std::process::id() }
    }
}

impl Deref for Held {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A forked process only closes its copy: the lock is its parent's.
        if self.pid == std::process::id() {
            // Closing the file does it, too, where nothing else has it.
            let _ = self.file.unlock();
        }
    }
}

/// Waits again when a signal handler ran meanwhile.
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
        let held = Held::exclusive(file).expect("locked");
        let again = || Held::try_exclusive(File::open(&path).expect("opened")).expect("tried");
        assert!(again().is_none());
        drop(held);
        assert!(again().is_some());
        drop(copy);
    }
}
