//! Changes the host's repository under git's own lock files: create `<file>.lock`, which only one process can do; compare the current value
//! with the expected one; rename the lock file to the file.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::dir_fd::{Dir, Kind, is_absent};
use super::oid::Format;
use super::reflog::{self, MAX_LOG_BYTES, Merged};
use super::refs::{self, MAX_PACKED_BYTES, MAX_REF_BYTES, Name, Refs, Value};

/// Result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or the host has the value already.
    Done,
    /// The host has another value.
    Moved,
    /// Another process holds the lock; try again later.
    Busy,
}

/// A held lock file; removed on drop.
pub struct Lock<'a> {
    dir: &'a Dir,
    name: OsString,
    lock: OsString,
}

impl<'a> Lock<'a> {
    /// Creates the lock file of a file, with the new contents.
    pub fn take(dir: &'a Dir, name: &OsStr, bytes: &[u8]) -> io::Result<Option<Lock<'a>>> {
        let mut lock = name.to_owned();
        lock.push(".lock");
        match dir.write_new(&lock, bytes, 0o666) {
            Ok(()) => Ok(Some(Lock { dir, name: name.to_owned(), lock })),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renames the lock file to the file, after syncing it to disk.
    pub fn commit(self) -> io::Result<()> {
        self.dir.sync(Path::new(&self.lock))?;
        self.commit_unsynced()
    }

    /// Renames the lock file to the file without a sync. For files that git does not sync either, because they can be rebuilt: the index
    /// and state files.
    pub fn commit_unsynced(self) -> io::Result<()> {
        self.dir.rename(&self.lock, &self.name)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // After a commit, the lock file is gone.
        let _ = self.dir.remove(&self.lock);
    }
}

/// The host's refs.
pub struct HostRefs<'a> {
    common: &'a Dir,
    format: Format,
    packed: Refs,
}

impl<'a> HostRefs<'a> {
    /// Reads the current packed refs.
    pub fn open(common: &'a Dir, format: Format) -> io::Result<HostRefs<'a>> {
        let packed = common.read(Path::new("packed-refs"), MAX_PACKED_BYTES)?.unwrap_or_default();
        Ok(HostRefs { common, format, packed: refs::parse_packed(&packed, format).0 })
    }

    /// Returns the current value of a ref.
    pub fn value(&self, name: &Name) -> io::Result<Option<Value>> {
        match self.common.read(Path::new(name.as_str()), MAX_REF_BYTES) {
            // An unreadable ref differs from every expected value.
            Ok(Some(bytes)) => refs::parse(&bytes, self.format).map(Some).ok_or_else(|| ErrorKind::InvalidData.into()),
            Ok(None) => Ok(self.packed.get(name).cloned()),
            // A directory: loose refs below it may exist beside a packed one of this name.
            Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(self.packed.get(name).cloned()),
            Err(error) => Err(error),
        }
    }

    /// Sets a ref if its value is `old`, and merges the sandbox's reflog.
    pub fn set(&self, name: &Name, old: Option<&Value>, new: &Value, log: Option<&[u8]>) -> io::Result<Outcome> {
        if self.is_in_the_way(name)? {
            return Ok(Outcome::Moved);
        }
        let path = Path::new(name.as_str());
        let parent = path.parent().unwrap_or_else(|| Path::new("refs"));
        let dir = match self.common.make(parent) {
            Ok(dir) => dir,
            // A ref has the name of a needed directory.
            Err(error) if is_absent(&error) => return Ok(Outcome::Moved),
            Err(error) => return Err(error),
        };
        let file = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let Some(lock) = Lock::take(&dir, file, refs::text(new).as_bytes())? else { return Ok(Outcome::Busy) };
        let now = match self.value(name) {
            Ok(now) => now,
            Err(_) => return Ok(Outcome::Moved),
        };
        if now.as_ref() == Some(new) {
            return Ok(Outcome::Done);
        }
        if now.as_ref() != old {
            return Ok(Outcome::Moved);
        }
        if dir.stat(Path::new(file))?.is_some_and(|stat| Kind::of(&stat) == Kind::Dir) && !remove_empty(&dir, Path::new(file)) {
            return Ok(Outcome::Moved);
        }
        if let Some(log) = log {
            let last = match old {
                Some(Value::Object(oid)) => Some(*oid),
                Some(Value::Symbolic(_)) | None => None,
            };
            let place = Path::new("logs").join(path);
            let is_dir = |stat: &rustix::fs::Stat| Kind::of(stat) == Kind::Dir;
            // Directories of removed refs are empty. Without its log a ref is complete.
            let is_free = !self.common.stat(&place)?.as_ref().is_some_and(is_dir) || {
                let (dir, name) = self.common.parent(&place)?;
                remove_empty(&dir, Path::new(name))
            };
            if is_free {
                merge_log(self.common, &place, log, last, self.format)?;
            }
        }
        lock.commit()?;
        Ok(Outcome::Done)
    }

    /// Removes a ref if its value is `old`, also from the packed refs.
    pub fn remove(&mut self, name: &Name, old: &Value) -> io::Result<Outcome> {
        let path = Path::new(name.as_str());
        let parent = path.parent().unwrap_or_else(|| Path::new("refs"));
        let file = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let dir = self.common.make(parent)?;
        let Some(lock) = Lock::take(&dir, file, b"")? else { return Ok(Outcome::Busy) };
        let now = match self.value(name) {
            Ok(Some(now)) => now,
            Ok(None) => return Ok(Outcome::Done),
            Err(_) => return Ok(Outcome::Moved),
        };
        if now != *old {
            return Ok(Outcome::Moved);
        }
        if self.packed.contains_key(name) {
            let packed = Path::new("packed-refs");
            let text = self.common.read(packed, MAX_PACKED_BYTES)?.unwrap_or_default();
            let left = refs::without(&text, &BTreeSet::from([name.clone()]));
            let Some(lock) = Lock::take(self.common, packed.as_os_str(), &left)? else { return Ok(Outcome::Busy) };
            if self.common.read(packed, MAX_PACKED_BYTES)?.unwrap_or_default() != text {
                return Ok(Outcome::Busy);
            }
            lock.commit()?;
            self.packed.remove(name);
        }
        match dir.remove(file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // git refuses a new ref if the log of a removed one has its path. The ref is gone in any case.
        let _ = self.remove_log(path);
        drop(lock);
        Ok(Outcome::Done)
    }

    /// Removes the log of a removed ref, and the directories above it that are empty without it.
    fn remove_log(&self, path: &Path) -> io::Result<()> {
        let log = Path::new("logs").join(path);
        let (dir, name) = self.common.parent(&log)?;
        dir.remove(name)?;
        // `logs/refs/heads` and its like stay.
        for above in log.ancestors().skip(1).take_while(|above| above.components().count() > 3) {
            let (dir, name) = self.common.parent(above)?;
            dir.remove_dir(name)?;
        }
        Ok(())
    }

    /// True if an existing ref is a parent or child path of this name.
    fn is_in_the_way(&self, name: &Name) -> io::Result<bool> {
        let below = format!("{}/", name.as_str());
        if self.packed.keys().any(|known| known.as_str().starts_with(&below)) {
            return Ok(true);
        }
        let above = Path::new(name.as_str()).ancestors().skip(1);
        let names = above.filter_map(|path| Name::parse(path.as_os_str().as_encoded_bytes()));
        for name in names {
            let is_loose = self.common.stat(Path::new(name.as_str()))?.is_some_and(|stat| Kind::of(&stat) != Kind::Dir);
            if is_loose || self.packed.contains_key(&name) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Removes a directory that contains only empty directories; returns whether it is gone.
fn remove_empty(dir: &Dir, path: &Path) -> bool {
    let Ok(inner) = dir.dir(path) else { return false };
    let names = inner.list(64).unwrap_or_default();
    names.iter().all(|name| remove_empty(&inner, Path::new(name))) && dir.remove_dir(path.as_os_str()).is_ok()
}

/// Merges a sandbox's reflog into the host's; the caller holds the lock of the ref.
pub fn merge_log(common: &Dir, path: &Path, inside: &[u8], last: Option<super::oid::Oid>, format: Format) -> io::Result<()> {
    let host = common.read(path, MAX_LOG_BYTES)?;
    let dir = || common.make(path.parent().unwrap_or_else(|| Path::new("")));
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    match reflog::merge(host.as_deref().unwrap_or_default(), inside, last, format) {
        Merged::Same => Ok(()),
        Merged::Append(lines) => match host {
            Some(_) => dir()?.append(name, &lines),
            None => dir()?.write_new(name, &lines, 0o666),
        },
        Merged::Replace(whole) => {
            let dir = dir()?;
            match Lock::take(&dir, name, &whole)? {
                Some(lock) => lock.commit(),
                None => Ok(()),
            }
        }
    }
}
