//! Lists and prunes a directory that other programs write to, through an open file descriptor.
//!
//! All paths are resolved below the open directory, and no symlink is followed. Only a listed file is removed: one that was changed, used
//! or replaced since the listing stays.

use crate::inode::{mode_of, permissions};
use crate::path_error::{PathError, at};
use crate::system;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An open directory.
#[derive(Debug)]
pub struct Rooted {
    fd: OwnedFd,
    path: PathBuf,
}

/// A file of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Its name.
    pub name: OsString,
    /// The time of the last access or change.
    pub used: SystemTime,
    /// Disk usage in bytes.
    pub bytes: u64,
    /// Device, inode and ctime, to detect a replaced or changed file.
    identity: (u64, u64, i64),
}

/// The contents of a directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The names of its directories.
    pub dirs: Vec<OsString>,
    /// Everything else.
    pub files: Vec<ListedFile>,
}

impl Rooted {
    /// Opens the directory at a path, which must not be a symlink.
    pub fn open(path: &Path) -> Result<Rooted, PathError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(at("open", path))?;
        Ok(Rooted { fd, path: path.to_owned() })
    }

    /// Lists a directory below, by its relative path.
    pub fn list(&self, dir: &Path) -> Result<Listing, PathError> {
        let failed = |error| at("list", &self.path.join(dir))(error);
        let opened = self.dir(dir).map_err(failed)?;
        let mut listing = Listing::default();
        for entry in Dir::read_from(&opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            // A file that has disappeared since uses no space.
            let Ok(found) = fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => listing.dirs.push(name.to_owned()),
                _ => listing.files.push(listed_file(name, &found)),
            }
        }
        Ok(listing)
    }

    /// Removes a file of a directory below, if it is unchanged since the listing; returns whether it was.
    ///
    /// A directory without write permission gets it first: Go's client makes its directories read-only.
    pub fn remove(&self, dir: &Path, file: &ListedFile) -> Result<bool, PathError> {
        let failed = |error| at("remove", &self.path.join(dir).join(&file.name))(error);
        let opened = self.dir(dir).map_err(failed)?;
        let found = fs::statat(&opened, &file.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory || listed_file(&file.name, &found) != *file {
            return Ok(false);
        }
        let mode = permissions(&fs::fstat(&opened).map_err(failed)?);
        if mode & 0o300 != 0o300 {
            // If the mode cannot be changed, the removal reports the error.
            let _ = fs::fchmod(&opened, mode_of(mode | 0o300));
        }
        fs::unlinkat(&opened, &file.name, AtFlags::empty()).map_err(failed)?;
        Ok(true)
    }

    fn dir(&self, dir: &Path) -> Result<OwnedFd, Errno> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        system::open_dir(self.fd.as_fd(), dir)
    }
}

fn listed_file(name: &OsStr, found: &Stat) -> ListedFile {
    let moment = |seconds: i64| UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    #[allow(clippy::useless_conversion, reason = "the types of these numbers are the system's own")]
    ListedFile {
        name: name.to_owned(),
        used: moment(found.st_mtime.max(found.st_atime).into()).unwrap_or(UNIX_EPOCH),
        bytes: u64::try_from(found.st_blocks).unwrap_or(0) * 512,
        identity: (u64::try_from(found.st_dev).unwrap_or(0), found.st_ino, found.st_ctime.into()),
    }
}
