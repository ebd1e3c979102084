//! A directory that programs write in, looked through and thinned out while it is open.
//!
//! Everything is found beneath the open directory, and no link is followed. What is removed is what was seen: a file that
//! was changed, used or replaced meanwhile stays.

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

/// A file that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: OsString,
    /// When it was read or written last.
    pub used: SystemTime,
    /// What it takes on disk.
    pub bytes: u64,
    /// Which file it is.
    identity: (u64, u64, i64),
}

/// What is in a directory.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The names of its directories.
    pub dirs: Vec<OsString>,
    /// Everything else.
    pub files: Vec<Listed>,
}

impl Rooted {
    /// Opens the directory at a path, which must not be a link.
    pub fn open(path: &Path) -> Result<Rooted, PathError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(at("open", path))?;
        Ok(Rooted { fd, path: path.to_owned() })
    }

    /// Lists a directory beneath, by its relative path.
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
            // What vanishes meanwhile takes nothing.
            let Ok(found) = fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => listing.dirs.push(name.to_owned()),
                _ => listing.files.push(seen(name, &found)),
            }
        }
        Ok(listing)
    }

    /// Removes a file from a directory beneath, if it is the one that was seen; says whether it was.
    ///
    /// Where the directory forbids it, as Go's client has its own do, it is opened for its owner.
    pub fn remove(&self, dir: &Path, file: &Listed) -> Result<bool, PathError> {
        let failed = |error| at("remove", &self.path.join(dir).join(&file.name))(error);
        let opened = self.dir(dir).map_err(failed)?;
        let found = fs::statat(&opened, &file.name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory || seen(&file.name, &found) != *file {
            return Ok(false);
        }
        let mode = permissions(&fs::fstat(&opened).map_err(failed)?);
        if mode & 0o300 != 0o300 {
            // Where it is not ours to change, removing says why.
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

fn seen(name: &OsStr, found: &Stat) -> Listed {
    let moment = |seconds: i64| UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    #[allow(clippy::useless_conversion, reason = "the types of these numbers are the system's own")]
    Listed {
        name: name.to_owned(),
        used: moment(found.st_mtime.max(found.st_atime).into()).unwrap_or(UNIX_EPOCH),
        bytes: u64::try_from(found.st_blocks).unwrap_or(0) * 512,
        identity: (u64::try_from(found.st_dev).unwrap_or(0), found.st_ino, found.st_ctime.into()),
    }
}
