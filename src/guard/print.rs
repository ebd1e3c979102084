//! Prints of files: by content, so that every difference is seen, and by what the kernel notes, so that a write is seen
//! even where the content is the same again.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use silo_store::Digest;
use silo_store::digest::Hasher;

use super::Error;
use crate::git::dir::{Dir, Kind};

/// Files above this are compared by what the kernel notes: reading them would cost each start more than a moment.
const MAX_HASHED_BYTES: u64 = 16 << 20;

/// What is at one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Print {
    /// What it is, and its content.
    pub content: Content,
    /// What the kernel notes of it.
    stamp: Stamp,
}

/// What a path holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file with this content; whether it can be executed.
    File(Digest, bool),
    /// A file that is too large to be read each time, or that cannot be read.
    Unread(Stamp),
    /// A symbolic link to this path.
    Link(PathBuf),
    /// A directory.
    Dir,
    /// A pipe, a socket or a device.
    Other,
}

/// What the kernel notes of a file: nobody but root can set the time of its last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    #[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
    fn of(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as u64,
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }
}

/// Whether prints of before are believed where the kernel has noted no change.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// Everything is read.
    Nothing,
    /// Files that have not changed since are not read again.
    Since(&'a BTreeMap<PathBuf, Print>),
}

/// Prints everything at and below a path of a project.
pub struct Printer<'a> {
    /// The project.
    pub project: &'a Dir,
    /// What is known already.
    pub known: Known<'a>,
    /// Most prints.
    pub most: usize,
}

impl Printer<'_> {
    /// Adds the prints of a path and of all that is below it; nothing where it is not there.
    pub fn add(&self, path: &Path, prints: &mut BTreeMap<PathBuf, Print>) -> Result<(), Error> {
        let mut paths = vec![path.to_owned()];
        while let Some(path) = paths.pop() {
            let Some(print) = self.print(&path) else { continue };
            if print.content == Content::Dir {
                let names = match self.project.dir(&path).and_then(|dir| dir.list(self.most)) {
                    Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(Error::TooMany { most: self.most }),
                    // One that is gone by now, or is shut to its owner.
                    names => names.unwrap_or_default(),
                };
                paths.extend(names.into_iter().map(|name| path.join(name)));
            }
            if prints.insert(path, print).is_none() && prints.len() > self.most {
                return Err(Error::TooMany { most: self.most });
            }
        }
        Ok(())
    }

    /// Prints one path. A failure to look counts as something else being there than before.
    fn print(&self, path: &Path) -> Option<Print> {
        let stat = self.project.stat(path).ok()??;
        let stamp = Stamp::of(&stat);
        if let Known::Since(before) = self.known
            && let Some(print) = before.get(path).filter(|print| print.stamp == stamp)
        {
            return Some(print.clone());
        }
        let content = match Kind::of(&stat) {
            Kind::Dir => Content::Dir,
            Kind::Link => self.project.link(path).map_or(Content::Unread(stamp), Content::Link),
            Kind::File if stamp.size > MAX_HASHED_BYTES => Content::Unread(stamp),
            Kind::File => self.hash(path).map_or(Content::Unread(stamp), |digest| Content::File(digest, stat.st_mode & 0o111 != 0)),
            Kind::Whiteout | Kind::Socket | Kind::Other => Content::Other,
        };
        Some(Print { content, stamp })
    }

    fn hash(&self, path: &Path) -> io::Result<Digest> {
        let (file, _) = self.project.file(path)?;
        let (mut hasher, mut file) = (Hasher::default(), file.take(MAX_HASHED_BYTES));
        io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finish())
    }
}

impl Print {
    /// Says whether nothing has written here since, as far as the kernel knows. Of a directory, that its files have other
    /// names is seen in their own prints.
    pub fn is_untouched_since(&self, before: &Print) -> bool {
        self.content == Content::Dir || self.stamp == before.stamp
    }
}
