//! Changes of the host's repository under git's own lock files: `<file>.lock` is made, which only one can do, the value is
//! compared with the one that it is believed to have, and the lock becomes the file by a rename.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::dir::{Dir, Kind, is_absent};
use super::oid::Format;
use super::reflog::{self, MAX_LOG_BYTES, Merged};
use super::refs::{self, MAX_PACKED_BYTES, MAX_REF_BYTES, Name, Refs, Value};

/// How a change went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or was the host's already.
    Done,
    /// The host has another value.
    Moved,
    /// Somebody holds the lock; it can be tried again.
    Busy,
}

/// A lock file that is held; dropped, it is removed.
pub struct Lock<'a> {
    dir: &'a Dir,
    name: OsString,
    lock: OsString,
}

impl<'a> Lock<'a> {
    /// Makes the lock file of a file, with what the file is to hold.
    pub fn take(dir: &'a Dir, name: &OsStr, bytes: &[u8]) -> io::Result<Option<Lock<'a>>> {
        let mut lock = name.to_owned();
        lock.push(".lock");
        match dir.write_new(&lock, bytes, 0o666) {
            Ok(()) => Ok(Some(Lock { dir, name: name.to_owned(), lock })),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the lock the file, whole also after a power cut.
    pub fn commit(self) -> io::Result<()> {
        self.dir.sync(Path::new(&self.lock))?;
        self.commit_unsynced()
    }

    /// Makes the lock the file. For what git does not sync either, since it can be made again: the index, and what git is in
    /// the middle of.
    pub fn commit_unsynced(self) -> io::Result<()> {
        self.dir.rename(&self.lock, &self.name)
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // One that was committed is gone.
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
    /// Reads the packed refs as they are now.
    pub fn open(common: &'a Dir, format: Format) -> io::Result<HostRefs<'a>> {
        let packed = common.read(Path::new("packed-refs"), MAX_PACKED_BYTES)?.unwrap_or_default();
        Ok(HostRefs { common, format, packed: refs::parse_packed(&packed, format).0 })
    }

    /// The value that a ref has now.
    pub fn value(&self, name: &Name) -> io::Result<Option<Value>> {
        match self.common.read(Path::new(name.as_str()), MAX_REF_BYTES) {
            // One that cannot be read is another one than any that was seen.
            Ok(Some(bytes)) => refs::parse(&bytes, self.format).map(Some).ok_or_else(|| ErrorKind::InvalidData.into()),
            Ok(None) => Ok(self.packed.get(name).cloned()),
            // A directory, where a ref that is packed may have its neighbours below.
            Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(self.packed.get(name).cloned()),
            Err(error) => Err(error),
        }
    }

    /// Sets a ref that has the value `old`, with what a sandbox has written into its log.
    pub fn set(&self, name: &Name, old: Option<&Value>, new: &Value, log: Option<&[u8]>) -> io::Result<Outcome> {
        if self.is_in_the_way(name)? {
            return Ok(Outcome::Moved);
        }
        let path = Path::new(name.as_str());
        let parent = path.parent().unwrap_or_else(|| Path::new("refs"));
        let dir = match self.common.make(parent) {
            Ok(dir) => dir,
            // A ref where this one needs a directory.
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
            merge_log(self.common, &Path::new("logs").join(path), log, last, self.format)?;
        }
        lock.commit()?;
        Ok(Outcome::Done)
    }

    /// Removes refs that have the values `old`, from the file of packed ones, too.
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
        drop(lock);
        Ok(Outcome::Done)
    }

    /// Says whether a ref has a name that this one would be a directory of, or the other way round.
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

/// Removes a directory that holds nothing but empty directories; says whether it is gone.
fn remove_empty(dir: &Dir, path: &Path) -> bool {
    let Ok(inner) = dir.dir(path) else { return false };
    let names = inner.list(64).unwrap_or_default();
    names.iter().all(|name| remove_empty(&inner, Path::new(name))) && dir.remove_dir(path.as_os_str()).is_ok()
}

/// Brings a sandbox's log to the host's; whoever calls holds the lock of the log's ref.
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
