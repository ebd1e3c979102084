//! How an entry's metadata is put on a file or directory on disk, and read from there.
//!
//! Files on disk always belong to whoever runs Silo, and the index keeps the truth. What can be
//! shown to a guest is: permissions (readable by us in any case), mtime, `user.*` attributes,
//! and an owner other than 0:0 as the attribute `user.silo.owner`.

use crate::entry::{Kind, Meta};
use crate::normal;
use rustix::fs::{self, Mode, RawMode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Puts the normal metadata `meta` on a file or directory that was just made.
pub(crate) fn dress(fd: BorrowedFd<'_>, kind: Kind, meta: &Meta) -> Result<(), Errno> {
    // Attributes first: the kernel lets user.* be set only where the owner may write.
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
        // A file system or container may forbid setuid bits; the index keeps them.
        Err(Errno::PERM) => fs::fchmod(fd, mode_of(mode & 0o777))?,
        done => done?,
    }
    fs::futimens(fd, &times(meta.mtime))
}

/// Makes an inode that others wrote carry exactly the normal metadata `meta`.
pub(crate) fn redress(fd: BorrowedFd<'_>, kind: Kind, meta: &Meta) -> Result<(), Errno> {
    fs::fchmod(fd, mode_of(0o600))?;
    undress(fd)?;
    dress(fd, kind, meta)
}

/// Takes all extended attributes off.
pub(crate) fn undress(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    for name in names(|buffer| fs::flistxattr(fd, buffer))? {
        // The host's own attributes (labels, say) may resist; no guest is shown them as ours.
        let removed = fs::fremovexattr(fd, name.as_slice());
        if name.starts_with(b"user.") {
            removed?;
        }
    }
    Ok(())
}

/// Returns the extended attributes at `path`, not following a link.
pub(crate) fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
    let mut found = BTreeMap::new();
    for name in names(|buffer| fs::llistxattr(path, buffer))? {
        let mut value = vec![0; normal::MAX_XATTR_BYTES];
        match fs::lgetxattr(path, name.as_slice(), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.insert(name, value);
            }
            // Removed meanwhile, or not ours to see.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

pub(crate) fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode as RawMode)
}

/// Returns the permissions that a file or directory has.
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
        // No user attributes here; the index keeps them.
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
