//! Differences between operating systems: syncing one file system, and opening and changing directories without following a symlink.

use crate::inode::mode_of;
use crate::path_error::{PathError, at};
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Flags to open a directory for listing.
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Syncs the file system of `dir`, so that all its writes survive a power loss.
pub(crate) fn sync_file_system(dir: &Path) -> Result<(), PathError> {
    let file = File::open(dir).map_err(at("open", dir))?;
    sync_file_system_of(&file).map_err(at("sync the file system of", dir))
}

/// Syncs the file system of an open directory.
#[cfg(target_os = "linux")]
pub fn sync_file_system_of(dir: impl AsFd) -> io::Result<()> {
    Ok(fs::syncfs(dir)?)
}

/// Syncs all file systems; only Linux can sync a single one.
#[cfg(not(target_os = "linux"))]
pub fn sync_file_system_of(dir: impl AsFd) -> io::Result<()> {
    fs::sync();
    Ok(fs::fsync(dir)?)
}

/// Finds a path whose links stay within a directory; `None` if the system has no call for that, or a directory moved during the walk.
#[cfg(target_os = "linux")]
pub fn find_in_root(dir: impl AsFd, path: &Path) -> Option<io::Result<OwnedFd>> {
    let within = fs::ResolveFlags::IN_ROOT | fs::ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), within) {
        Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => None,
        found => Some(found.map_err(io::Error::from)),
    }
}

/// Finds a path whose links stay within a directory: macOS has no call for that.
#[cfg(not(target_os = "linux"))]
pub fn find_in_root(_: impl AsFd, _: &Path) -> Option<io::Result<OwnedFd>> {
    None
}

/// Creates an overlay whiteout in `dir`, which hides a name of the lower directory.
#[cfg(target_os = "linux")]
pub fn make_whiteout(dir: impl AsFd, name: &Path) -> io::Result<()> {
    use rustix::fs::{FileType, mknodat};
    Ok(mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Other systems have no overlays, and so no whiteouts.
#[cfg(not(target_os = "linux"))]
pub fn make_whiteout(_: impl AsFd, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Asks the file system to spread the subdirectories of `dir` over the disk (`chattr +T`).
#[cfg(target_os = "linux")]
pub(crate) fn spread(dir: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let Ok(file) = File::open(dir) else { return };
    // Only some file systems support this, and it affects speed only.
    let _ = ioctl_getflags(&file).and_then(|flags| ioctl_setflags(&file, flags | IFlags::TOPDIR));
}

/// Not available on other systems.
#[cfg(not(target_os = "linux"))]
pub(crate) fn spread(_: &Path) {}

/// Opens the directory at a relative path below `dir`; symlinks and mount points are rejected.
#[cfg(target_os = "linux")]
pub(crate) fn open_dir(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::ResolveFlags;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    fs::openat2(dir, path, DIR_FLAGS, Mode::empty(), within)
}

/// Opens the directory at a relative path below `dir`, component by component; symlinks and mount points are rejected.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_dir(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    use std::path::Component;
    let of = fs::fstat(dir)?.st_dev;
    let mut here: Option<OwnedFd> = None;
    for part in path.components() {
        let Component::Normal(name) = part else { return Err(Errno::INVAL) };
        let next = fs::openat(here.as_ref().map_or(dir, std::os::fd::AsFd::as_fd), name, DIR_FLAGS, Mode::empty())?;
        if fs::fstat(&next)?.st_dev != of {
            return Err(Errno::XDEV);
        }
        here = Some(next);
    }
    here.ok_or(Errno::INVAL)
}

/// Changes the permissions of a file or directory. A symlink is an error; its target is not changed.
#[cfg(target_os = "linux")]
pub(crate) fn change_mode(dir: BorrowedFd<'_>, name: &Path, mode: impl FnOnce(u32) -> u32) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let opened = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fs::fstat(&opened)?;
    if fs::FileType::from_raw_mode(found.st_mode) == fs::FileType::Symlink {
        return Err(Errno::LOOP);
    }
    // A file descriptor opened with O_PATH cannot be passed to fchmod; its path in /proc names the same inode.
    let through = format!("/proc/self/fd/{}", opened.as_raw_fd());
    fs::chmodat(fs::CWD, through, mode_of(mode(found.st_mode & 0o7777)), fs::AtFlags::empty())
}

/// Changes the permissions of a file or directory; other systems do not follow a symlink here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn change_mode(dir: BorrowedFd<'_>, name: &Path, mode: impl FnOnce(u32) -> u32) -> Result<(), Errno> {
    let found = fs::statat(dir, name, fs::AtFlags::SYMLINK_NOFOLLOW)?;
    fs::chmodat(dir, name, mode_of(mode(u32::from(found.st_mode) & 0o7777)), fs::AtFlags::SYMLINK_NOFOLLOW)
}
