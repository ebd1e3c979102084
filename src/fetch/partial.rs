//! An incomplete download: locked, hashed as it grows, and renamed to its final name once it is verified.
//!
//! `downloads/partial/<sha256>` is written under an exclusive flock on the file itself. If two processes need the same file, one fetches
//! it; the other waits for the lock and then finds it complete. The lock belongs to the inode, not the name. So the name is checked again
//! after locking, and a file that was moved or removed in between is released.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use silo_store::locked_file::LockedFile;
use silo_store::private;

use super::error::{Error, Size};
use super::retry::Stop;

/// The delay between two attempts at a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of one read when a file is hashed.
const CHUNK_BYTES: usize = 256 << 10;

/// The pinned properties of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin<'a> {
    pub(super) sha256: &'a [u8; 32],
    pub(super) size: Size,
}

/// The use of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It stays, and later commands find it by its size alone.
    Lasting,
    /// It is read once, verified by its reader, and removed.
    Once,
}

/// The result of claiming a file.
pub(super) enum Claim {
    /// Present under its final name.
    Done(PathBuf),
    /// Locked by this caller, who must fetch it.
    Ours(Box<Partial>),
}

/// A growing file; the lock lasts as long as this value.
pub(super) struct Partial {
    file: LockedFile,
    path: PathBuf,
    done: PathBuf,
    sha256: [u8; 32],
    size: Size,
    hasher: Sha256,
    len: u64,
    origin: Option<usize>,
}

/// Returns the name of a file in the downloads directory: its digest in hex.
pub(super) fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the final path if the file is present, by its size alone.
pub(super) fn present(dir: &Path, pin: Pin) -> Option<PathBuf> {
    let path = dir.join(hex(pin.sha256));
    let facts = fs::symlink_metadata(&path).ok()?;
    (facts.is_file() && pin.size.admits(facts.len())).then_some(path)
}

/// Locks a file, waiting for other holders, and hashes the bytes that are present.
pub(super) fn claim(dir: &Path, pin: Pin, stop: &Stop, on_wait: impl FnOnce()) -> Result<Claim, Error> {
    let path = dir.join("partial").join(hex(pin.sha256));
    let mut on_wait = Some(on_wait);
    loop {
        stop.check()?;
        if let Some(done) = present(dir, pin) {
            return Ok(Claim::Done(done));
        }
        let file = private::open(&path).map_err(|err| Error::io("open", &path, err))?;
        match LockedFile::try_exclusive(file) {
            Ok(Some(file)) if still_named(&file, &path) && present(dir, pin).is_none() => {
                let mut partial = Partial {
                    file,
                    path,
                    done: dir.join(hex(pin.sha256)),
                    sha256: *pin.sha256,
                    size: pin.size,
                    hasher: Sha256::new(),
                    len: 0,
                    origin: None,
                };
                partial.read_back(stop)?;
                return Ok(Claim::Ours(Box::new(partial)));
            }
            // Another process finished or gave up between our open and our lock.
            Ok(Some(_)) => {}
            Ok(None) => {
                if let Some(on_wait) = on_wait.take() {
                    on_wait();
                }
                stop.sleep(LOCK_PAUSE)?;
            }
            Err(err) => return Err(Error::io("lock", &path, err)),
        }
    }
}

/// Checks the digest of a finished download; reads the whole file.
pub fn verify_file(path: &Path, sha256: &[u8; 32]) -> Result<(), Error> {
    let mut file = File::open(path).map_err(|err| Error::io("open", path, err))?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut piece).map_err(|err| Error::io("read", path, err))? {
            0 => break,
            len => hasher.update(&piece[..len]),
        }
    }
    compare(path.display().to_string(), sha256, &hasher.finalize().into())
}

/// Fails if the digests differ; `url` is the source of the bytes.
pub(super) fn compare(url: String, expected: &[u8; 32], got: &[u8; 32]) -> Result<(), Error> {
    if expected == got {
        return Ok(());
    }
    Err(Error::WrongDigest { url, expected: hex(expected), got: hex(got) })
}

/// Fsyncs `dir`, so that a new name survives a power loss.
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|err| Error::io("sync", dir, err))
}

fn still_named(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

impl Partial {
    /// Returns the number of bytes present.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Records the candidate of the following bytes.
    pub(super) fn begin(&mut self, candidate: usize) {
        if self.len == 0 {
            self.origin = Some(candidate);
        } else if self.origin != Some(candidate) {
            self.origin = None;
        }
    }

    /// Whether all bytes came from one candidate in this run, so that a wrong digest is its fault.
    pub(super) fn is_pure(&self) -> bool {
        self.origin.is_some()
    }

    /// Appends bytes; the caller has checked that they fit.
    pub(super) fn append(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.file.write_all(piece).map_err(|err| Error::io("write", &self.path, err))?;
        self.hasher.update(piece);
        self.len += piece.len() as u64;
        Ok(())
    }

    /// Discards all bytes.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        let empty = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        empty.map_err(|err| Error::io("truncate", &self.path, err))?;
        self.hasher = Sha256::new();
        self.len = 0;
        self.origin = None;
        Ok(())
    }

    /// Whether the bytes present are already the complete file.
    pub(super) fn is_whole(&self) -> bool {
        self.size.admits(self.len) && <[u8; 32]>::from(self.hasher.clone().finalize()) == self.sha256
    }

    /// Checks the digest, fsyncs the file if it stays, and renames it.
    pub(super) fn finish(&self, url: &str, used: Use) -> Result<PathBuf, Error> {
        compare(url.to_owned(), &self.sha256, &self.hasher.clone().finalize().into())?;
        if used == Use::Lasting {
            self.file.sync_all().map_err(|err| Error::io("sync", &self.path, err))?;
        }
        fs::rename(&self.path, &self.done).map_err(|err| Error::io("rename", &self.path, err))?;
        Ok(self.done.clone())
    }

    /// Hashes the bytes of an earlier run, and truncates a file beyond its limit.
    fn read_back(&mut self, stop: &Stop) -> Result<(), Error> {
        let facts = self.file.metadata().map_err(|err| Error::io("read", &self.path, err))?;
        if facts.len() > self.size.bound() {
            return self.restart();
        }
        let mut piece = vec![0; CHUNK_BYTES];
        loop {
            stop.check()?;
            match self.file.read(&mut piece).map_err(|err| Error::io("read", &self.path, err))? {
                0 => return Ok(()),
                len => {
                    self.hasher.update(&piece[..len]);
                    self.len += len as u64;
                }
            }
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Removes an empty file. The lock is still held here, and a waiting process checks the name again.
        if self.len == 0 && still_named(&self.file, &self.path) {
            // If the removal fails, the next run uses the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}
