//! Fingerprints of files: by content, to find every difference, and by kernel metadata, to find a write even if the content is the same.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use silo_store::Digest;
use silo_store::digest::Hasher;

use super::error::Error;
use crate::git::dir_fd::{Dir, Kind};

/// Larger files are compared by kernel metadata, because reading them would delay each start.
const MAX_HASHED_BYTES: u64 = 16 << 20;

/// Fingerprint of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Type and content.
    pub content: Content,
    /// Kernel metadata.
    stamp: Stamp,
}

/// Type and content of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file with this digest and execute permission.
    File(Digest, bool),
    /// A file that is too large or cannot be read.
    Unread(Stamp),
    /// A symlink with this target.
    Link(PathBuf),
    /// A directory.
    Dir,
    /// A pipe, a socket or a device.
    Other,
}

/// Kernel metadata of a file; only root can set its ctime.
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

/// Reuse of earlier fingerprints for files with unchanged kernel metadata.
#[derive(Clone, Copy, Debug)]
pub enum KnownPrints<'a> {
    /// Read everything.
    Nothing,
    /// Do not read unchanged files again.
    Since(&'a BTreeMap<PathBuf, Fingerprint>),
}

/// Fingerprints everything at and below a path of a project.
pub struct Printer<'a> {
    /// Project directory.
    pub project: &'a Dir,
    /// Earlier fingerprints.
    pub known: KnownPrints<'a>,
    /// Maximum number of fingerprints.
    pub most: usize,
}

impl Printer<'_> {
    /// Adds the fingerprints of a path and everything below it; adds nothing if it does not exist.
    pub fn add(&self, path: &Path, prints: &mut BTreeMap<PathBuf, Fingerprint>) -> Result<(), Error> {
        let mut paths = vec![path.to_owned()];
        while let Some(path) = paths.pop() {
            let Some(print) = self.print(&path) else { continue };
            if print.content == Content::Dir {
                let names = match self.project.dir(&path).and_then(|dir| dir.list(self.most)) {
                    Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(Error::TooMany { most: self.most }),
                    // Removed by now, or unreadable for its owner.
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

    /// Fingerprints one path. A read error counts as changed content.
    fn print(&self, path: &Path) -> Option<Fingerprint> {
        let stat = self.project.stat(path).ok()??;
        let stamp = Stamp::of(&stat);
        if let KnownPrints::Since(before) = self.known
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
        Some(Fingerprint { content, stamp })
    }

    fn hash(&self, path: &Path) -> io::Result<Digest> {
        let (file, _) = self.project.file(path)?;
        let (mut hasher, mut file) = (Hasher::default(), file.take(MAX_HASHED_BYTES));
        io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finish())
    }
}

impl Fingerprint {
    /// True if nothing has written here since, according to the kernel. For a directory, renames of its files show in their own
    /// fingerprints.
    pub fn is_untouched_since(&self, before: &Fingerprint) -> bool {
        self.content == Content::Dir || self.stamp == before.stamp
    }
}
