//! Disk usage of files, each counted once regardless of its hard links.
//!
//! Layers and the images composed of them share files, so a sum over directories is meaningless. A ledger gets directories one after
//! another and remembers the counted files.

use crate::path_error::{PathError, at};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The usage that one more directory adds to a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Disk usage of the files not counted before, in bytes.
    pub fresh: u64,
    /// The lengths of those files.
    pub apparent: u64,
    /// Disk usage of the files whose last hard link was counted: removing everything added so far frees it.
    pub freed: u64,
    /// Number of files, directories and symlinks not counted before.
    pub files: u64,
}

/// Counted links by device and inode number.
#[derive(Debug, Default)]
pub struct LinkCounts {
    seen: HashMap<(u64, u64), u64>,
}

impl LinkCounts {
    /// Counts a path and everything below it; missing or disappearing files count as zero.
    pub fn add(&mut self, path: &Path) -> Result<Added, PathError> {
        let mut added = Added::default();
        self.walk(path, &mut added)?;
        Ok(added)
    }

    fn walk(&mut self, path: &Path, added: &mut Added) -> Result<(), PathError> {
        let found = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            found => found.map_err(at("inspect", path))?,
        };
        self.count(&found, added);
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Ok(());
        }
        // A program may nest directories deeper than PATH_MAX: only one is open at a time, and `..` is the way back.
        let Some(mut here) = open(CWD, path).map_err(at("list", path))? else { return Ok(()) };
        let mut inner = self.list(&here, added).map_err(at("list", path))?;
        let mut above: Vec<ParentDir> = Vec::new();
        loop {
            let Some(name) = inner.pop() else {
                let Some(up) = above.pop() else { return Ok(()) };
                match open(here.as_fd(), Path::new("..")).map_err(at("list", path))? {
                    Some(fd) if identity(&fd).map_err(at("inspect", path))? == up.identity => here = fd,
                    // The directory was moved in between; return the count so far.
                    _ => return Ok(()),
                }
                inner = up.inner;
                continue;
            };
            let Some(deeper) = open(here.as_fd(), Path::new(&name)).map_err(at("list", path))? else { continue };
            let list = self.list(&deeper, added).map_err(at("list", path))?;
            above.push(ParentDir { identity: identity(&here).map_err(at("inspect", path))?, inner });
            (here, inner) = (deeper, list);
        }
    }

    /// Counts the entries of a directory; returns the names of its subdirectories.
    fn list(&mut self, dir: &OwnedFd, added: &mut Added) -> Result<Vec<OsString>, Errno> {
        let mut inner = Vec::new();
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT | Errno::ACCESS) => {}
                found => {
                    let found = found?;
                    self.count(&found, added);
                    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
                        inner.push(name.to_owned());
                    }
                }
            }
        }
        Ok(inner)
    }

    fn count(&mut self, found: &Stat, added: &mut Added) {
        let is_dir = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        // st_blocks counts 512-byte blocks on every file system.
        let bytes = u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        #[allow(clippy::useless_conversion, reason = "the types of these numbers are the system's own")]
        let (device, names) = (u64::try_from(found.st_dev).unwrap_or(0), if is_dir { 1 } else { u64::from(found.st_nlink) });
        let seen = self.seen.entry((device, found.st_ino)).or_default();
        *seen += 1;
        if *seen == 1 {
            added.fresh += bytes;
            added.apparent += if is_dir { 0 } else { u64::try_from(found.st_size).unwrap_or(0) };
            added.files += 1;
        }
        if *seen == names {
            added.freed += bytes;
        }
    }
}

/// A parent directory to return to.
struct ParentDir {
    identity: (u64, u64),
    /// Its subdirectories still to be counted.
    inner: Vec<OsString>,
}

fn identity(dir: &OwnedFd) -> Result<(u64, u64), Errno> {
    let found = rustix::fs::fstat(dir)?;
    #[allow(clippy::useless_conversion, reason = "the type of this number is the system's own")]
    Ok((u64::try_from(found.st_dev).unwrap_or(0), found.st_ino))
}

/// Opens a directory for counting; `None` if it is gone or not accessible. Overlayfs makes an inaccessible one beside the upper directory
/// of each running step, and a step may make others.
fn open(dir: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, path, flags, Mode::empty());
    let entered = opened.and_then(|fd| rustix::fs::statat(&fd, ".", AtFlags::empty()).map(|_| fd));
    match entered {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_deeper_than_a_path_can_name_is_counted() {
        // Use a tmpfs if there is one: a disk is slow for so many directories.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut here = open(CWD, dir.path()).unwrap().unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = open(here.as_fd(), Path::new("d")).unwrap().unwrap();
        }
        assert_eq!(LinkCounts::default().add(dir.path()).unwrap().files, 5_001);
        crate::removal::remove_tree(&dir.path().join("d")).unwrap();
    }

    #[test]
    fn a_closed_directory_is_counted_and_not_entered() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(LinkCounts::default().add(dir.path()).unwrap().files, 2);
    }

    #[test]
    fn a_file_counts_once_and_is_freed_with_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(one.join("a"), vec![b'x'; 100_000]).unwrap();
        fs::hard_link(one.join("a"), two.join("a")).unwrap();
        let mut ledger = LinkCounts::default();
        let first = ledger.add(&one).unwrap();
        let second = ledger.add(&two).unwrap();
        assert!(first.fresh >= 100_000 && first.apparent == 100_000 && first.freed < 100_000, "{first:?}");
        assert!(second.fresh < 100_000 && second.freed >= 100_000 && second.apparent == 0, "{second:?}");
        assert_eq!(ledger.add(&dir.path().join("none")).unwrap(), Added::default());
    }
}
