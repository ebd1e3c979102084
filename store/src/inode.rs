//! Writes and reads an entry's metadata on disk.
//!
//! Files on disk belong to the user that runs Silo; the index has the true owner. The disk has the metadata that a guest can see:
//! permissions (always readable by us), mtime, `user.*` attributes, and an owner other than 0:0 as the attribute `user.silo.owner`.

use crate::entry::{Kind, Meta};
use crate::normal;
use rustix::fs::{self, Mode, RawMode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Returns the mode with which to create an entry that needs no change of its mode or attributes after it; `kept` are the permissions that
/// the umask and the file system keep. `None` if the entry must be created with another mode, and dressed.
pub(crate) fn final_mode(kind: Kind, meta: &Meta, kept: u32) -> Option<Mode> {
    let mode = normal::disk_mode(kind, meta.mode);
    let is_plain = normal::owner_text(meta).is_none() && !meta.xattrs.keys().any(|name| name.starts_with(b"user."));
    // Writing to a file clears setuid bits, and `kept` has none.
    (is_plain && mode & !kept == 0).then(|| mode_of(mode))
}

/// Sets the normalised metadata `meta` on a new file or directory.
pub(crate) fn dress(fd: BorrowedFd<'_>, kind: Kind, meta: &Meta) -> Result<(), Errno> {
    set_access(fd, kind, meta)?;
    fs::futimens(fd, &times(meta.mtime))
}

/// Sets the owner, the attributes and the mode of `meta`, and not its time.
pub(crate) fn set_access(fd: BorrowedFd<'_>, kind: Kind, meta: &Meta) -> Result<(), Errno> {
    // Attributes first: the kernel allows user.* only with write permission.
    if let Some(owner) = normal::owner_text(meta) {
        set_xattr(fd, normal::OWNER_XATTR.as_bytes(), owner.as_bytes())?;
    }
    for (name, value) in &meta.xattrs {
        if name.starts_with(b"user.") {
            set_xattr(fd, name, value)?;
        }
    }
    let mode = normal::disk_mode(kind, meta.mode);
    match fs::fchmod(fd, mode_of(mode)) {
        // A file system or container may forbid setuid bits; the index has them.
        Err(Errno::PERM) => fs::fchmod(fd, mode_of(mode & 0o777)),
        done => done,
    }
}

/// Resets an inode written by others to exactly the normalised metadata `meta`.
pub(crate) fn redress(fd: BorrowedFd<'_>, kind: Kind, meta: &Meta) -> Result<(), Errno> {
    fs::fchmod(fd, mode_of(0o600))?;
    undress(fd)?;
    dress(fd, kind, meta)
}

/// Removes all extended attributes.
pub(crate) fn undress(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    for name in names(|buffer| fs::flistxattr(fd, buffer))? {
        // The host's own attributes (security labels) may be protected; guests do not see them as ours.
        let removed = fs::fremovexattr(fd, name.as_slice());
        if name.starts_with(b"user.") {
            removed?;
        }
    }
    Ok(())
}

/// Returns the extended attributes of `path`; a symlink is not followed.
pub(crate) fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let mut found = BTreeMap::new();
    for name in names(|buffer| fs::llistxattr(path, buffer))? {
        let mut value = vec![0; normal::MAX_XATTR_BYTES];
        match fs::lgetxattr(path, name.as_slice(), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.insert(name, value);
            }
            // Removed in between, or not permitted.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

pub(crate) fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode as RawMode)
}

/// Returns the permission bits of a file or directory.
#[allow(clippy::useless_conversion, reason = "the type of a mode is the system's own")]
pub(crate) fn permissions(found: &fs::Stat) -> u32 {
    u32::from(found.st_mode) & 0o7777
}

pub(crate) fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn set_xattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    match fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        // The file system has no user attributes; the index has them.
        Err(Errno::NOTSUP) => Ok(()),
        done => done,
    }
}

fn names(list: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = vec![0; 1024];
    let length = loop {
        match list(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() < normal::MAX_XATTR_BYTES => buffer.resize(buffer.len() * 4, 0),
            Err(Errno::NOTSUP) => break 0,
            done => break done?,
        }
    };
    let list = buffer[..length].split(|byte| *byte == 0);
    Ok(list.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}
