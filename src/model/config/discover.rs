//! Finds the project of a directory, and opens its files if no other user can have written them.
//!
//! A file is accepted if it and its directory belong to the caller or root and nobody else can write either. Both checks use open
//! descriptors, and the bytes are read from the same descriptor.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, stat, statat};
use rustix::io::Errno;

use silo_base::home::{LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;

use super::groups;

/// Limit of followed symlinks to one file; the kernel allows 40.
const MAX_LINKS: usize = 8;

/// A rejected file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Reason.
    pub why: RejectReason,
}

/// Reason for rejecting a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The file belongs to another user.
    Owner(u32),
    /// Other users can write the file.
    Writable,
    /// Its directory belongs to another user.
    OwnerOfDirectory(PathBuf, u32),
    /// Other users can write its directory.
    WritableDirectory(PathBuf),
}

impl fmt::Display for RejectedFile {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = sanitize::path(&self.path);
        match &self.why {
            RejectReason::Owner(uid) => {
                write!(to, "{path} is not used: it belongs to user {uid} (run silo as that user, or take it over with `chown`)")
            }
            RejectReason::Writable => write!(to, "{path} is not used: other users can write it (`chmod go-w` prevents that)"),
            RejectReason::OwnerOfDirectory(dir, uid) => write!(to, "{path} is not used: {} belongs to user {uid}", sanitize::path(dir)),
            RejectReason::WritableDirectory(dir) => write!(to, "{path} is not used: other users can write {}", sanitize::path(dir)),
        }
    }
}

/// The project of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundProject {
    /// Project directory.
    pub root: PathBuf,
    /// Settings files on the way that were rejected.
    pub passed_over: Vec<RejectedFile>,
}

/// Result of opening a project file.
#[derive(Debug)]
pub enum ProjectFile {
    /// The file does not exist.
    Absent,
    /// The file, which no other user can have written.
    File(File),
    /// Rejected: another user may have written the file.
    PassedOver(RejectedFile),
}

/// Finds the project of `from`: the nearest directory upwards with an accepted `silo.toml` (or its old form), else the nearest with a
/// `.git`, else `from` itself.
pub fn project(from: &Path) -> FoundProject {
    let mut passed_over = Vec::new();
    for dir in from.ancestors() {
        for name in [PROJECT_CONFIG, LEGACY_CONFIG] {
            let path = dir.join(name);
            if path.symlink_metadata().is_err() {
                continue;
            }
            match open(&path) {
                Ok(ProjectFile::Absent) => {}
                Ok(ProjectFile::PassedOver(one)) => passed_over.push(one),
                // An unreadable file is an error of its reader.
                Ok(ProjectFile::File(_)) | Err(_) => return FoundProject { root: dir.to_owned(), passed_over },
            }
        }
    }
    let root = from.ancestors().find(|dir| is_repository(dir)).unwrap_or(from);
    FoundProject { root: root.to_owned(), passed_over }
}

/// True if a directory has a repository of the caller or root; in `/tmp`, anybody can make one.
fn is_repository(dir: &Path) -> bool {
    let me = rustix::process::getuid().as_raw();
    let is_owned = dir.join(".git").metadata().is_ok_and(|found| me == 0 || [0, me].contains(&found.uid()));
    is_owned && dir.metadata().is_ok_and(|found| found.mode() & 0o002 == 0)
}

/// Opens a file for reading if no other user can have written it; does not block on a pipe.
///
/// Follows symlinks one by one; the directory of each must be safe too.
pub fn open(path: &Path) -> io::Result<ProjectFile> {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
        let passed_over = |why| Ok(ProjectFile::PassedOver(RejectedFile { path: path.to_owned(), why }));
        let of_directory = |writer| match writer {
            Writer::Owner(uid) => RejectReason::OwnerOfDirectory(parent.to_owned(), uid),
            Writer::Others => RejectReason::WritableDirectory(parent.to_owned()),
        };
        let dir = match openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            // An unreadable directory cannot be opened; check it only for the reason.
            Err(Errno::ACCESS) => match writer(&stat(parent)?, Acl::None) {
                Some(writer) => return passed_over(of_directory(writer)),
                None => return Err(Errno::ACCESS.into()),
            },
            opened => absent(opened)?,
        };
        let Some(dir) = dir else { return Ok(ProjectFile::Absent) };
        if let Some(writer) = writer(&fstat(&dir)?, acl(&dir)) {
            return passed_over(of_directory(writer));
        }
        let of_file = |writer| match writer {
            Writer::Owner(uid) => RejectReason::Owner(uid),
            Writer::Others => RejectReason::Writable,
        };
        // Do not even open a device or pipe.
        let Some(found) = absent(statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW))? else { return Ok(ProjectFile::Absent) };
        if !matches!(FileType::from_raw_mode(found.st_mode), FileType::RegularFile | FileType::Symlink | FileType::Directory) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file, nor a link to one"));
        }
        if let Some(writer) = writer(&found, Acl::None) {
            return passed_over(of_file(writer));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(&dir, name, flags, Mode::empty()) {
            // A symlink.
            Err(Errno::LOOP) => at = parent.join(OsStr::from_bytes(readlinkat(&dir, name, Vec::new())?.as_bytes())),
            opened => match absent(opened)?.map(File::from) {
                None => return Ok(ProjectFile::Absent),
                Some(file) => match writer(&fstat(&file)?, acl(&file)) {
                    Some(writer) => return passed_over(of_file(writer)),
                    None => return Ok(ProjectFile::File(file)),
                },
            },
        }
    }
    Err(Errno::LOOP.into())
}

fn absent<T>(opened: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Another user with write access.
enum Writer {
    Owner(u32),
    Others,
}

/// Returns who, except the caller and root, can write a file or directory.
fn writer(found: &Stat, acl: Acl) -> Option<Writer> {
    let me = rustix::process::getuid().as_raw();
    if ![0, me].contains(&found.st_uid) {
        return Some(Writer::Owner(found.st_uid));
    }
    let (kind, mode) = (FileType::from_raw_mode(found.st_mode), Mode::from_raw_mode(found.st_mode));
    let by_group = || mode.contains(Mode::WGRP) && (acl == Acl::Extended || !groups::is_of_one(found.st_gid, me));
    // The mode of a symlink has no meaning.
    (!kind.is_symlink() && (mode.contains(Mode::WOTH) || by_group())).then_some(Writer::Others)
}

/// The access control list of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acl {
    /// There is none, or it was not read.
    None,
    /// It names more users; the group bits then limit all of them.
    Extended,
}

fn acl(file: impl rustix::fd::AsFd) -> Acl {
    // An empty buffer asks for the size only.
    match rustix::fs::fgetxattr(file, c"system.posix_acl_access", &mut [0_u8; 0]) {
        Ok(1..) => Acl::Extended,
        Ok(0) | Err(_) => Acl::None,
    }
}
