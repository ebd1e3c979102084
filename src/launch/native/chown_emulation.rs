//! Changes of ownership in a build step: recorded as an extended attribute and answered as success.
//!
//! A step's user namespace has one user, so the kernel cannot give a file to another user. The filter passes every call of the chown family
//! to PID 1, which does the same as the kernel, except that it writes the owner to `user.silo.owner`. PID 1 is in the sandbox's own root,
//! from which no path leaves the sandbox (`named.rs`). Host files, mounted or passed as a stream, do not change: only files on the root's
//! own mount are changed, and calls for all others succeed without effect.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, XattrFlags, chmodat, getxattr, open, removexattr, setxattr, statx};
use rustix::io::Errno;

use super::syscall_path::Named;
use crate::failure::{Failure, StepContext};
use crate::kernel::notice::Notice;

/// The attribute with a file's owner, as `uid:gid` in decimal; absent means 0:0.
const OWNER: &str = "user.silo.owner";

/// The user or group id that leaves the owner unchanged.
const UNCHANGED: u32 = u32::MAX;

/// Answers the calls of one sandbox.
pub struct Recorder {
    root: OwnedFd,
    root_mount: u64,
}

/// The arguments of a chown call.
struct Change {
    named: Named,
    uid: u32,
    gid: u32,
}

impl Recorder {
    /// Opens the root; call it inside the sandbox's root.
    pub fn new() -> Result<Recorder, Failure> {
        let step = "opening the root";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open("/", flags, Mode::empty()).during(step)?;
        let root_mount = mount_id(root.as_fd()).during(step)?;
        Ok(Recorder { root, root_mount })
    }

    /// Answers a call.
    pub fn serve(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Result<(), Errno> {
        let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
        let change = read(notice, pid)?;
        if change.named.path.as_ref().is_some_and(is_elsewhere) {
            return Ok(());
        }
        let target = change.named.open(self.root.as_fd(), pid)?;
        if !still_waits() {
            return Err(Errno::SRCH);
        }
        if mount_id(target.as_fd())? != self.root_mount {
            return Ok(());
        }
        record(target.as_fd(), change.uid, change.gid)
    }
}

/// True for a path in `/proc` or `/dev`: no owners are recorded there, and `self` would mean PID 1, as in `chown x /dev/stdout`.
fn is_elsewhere(path: &CString) -> bool {
    let path = path.to_bytes();
    path.starts_with(b"/proc/") || path.starts_with(b"/dev/")
}

/// Reads a call's arguments, and the path from the caller's memory.
fn read(notice: &Notice, pid: i32) -> Result<Change, Errno> {
    let args = notice.args;
    let id = |index: usize| args[index] as u32;
    let call = libc::c_long::from(notice.call);
    if call == libc::SYS_fchown {
        return Ok(Change { named: Named::by_descriptor(args[0]), uid: id(1), gid: id(2) });
    }
    if call == libc::SYS_fchownat {
        return Ok(Change { named: Named::at(pid, args[0], args[1], args[4])?, uid: id(2), gid: id(3) });
    }
    // chown and lchown; aarch64 does not have them.
    let mut named = Named::by_path(pid, args[0])?;
    named.follow = !is_lchown(call);
    Ok(Change { named, uid: id(1), gid: id(2) })
}

#[cfg(target_arch = "x86_64")]
fn is_lchown(call: libc::c_long) -> bool {
    call == libc::SYS_lchown
}

#[cfg(not(target_arch = "x86_64"))]
fn is_lchown(_call: libc::c_long) -> bool {
    false
}

/// Returns the id of the mount through which a file was opened.
fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

/// Applies a change of ownership to a file.
fn record(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // The kernel allows user attributes only on files and directories.
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(());
    }
    // The `O_PATH` descriptor gives no access to the file, so the calls use its path in /proc.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    if kind == FileType::RegularFile {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        let cleared = without_set_id(mode);
        if cleared != mode {
            chmodat(CWD, &path, cleared, AtFlags::empty())?;
        }
    }
    let mut text = [0; 64];
    let before = match getxattr(&path, OWNER, &mut text) {
        Ok(length) => parse(&text[..length]),
        Err(_) => (0, 0),
    };
    let pick = |new: u32, old: u32| if new == UNCHANGED { old } else { new };
    let after = (pick(uid, before.0), pick(gid, before.1));
    let written = if after == (0, 0) {
        removexattr(&path, OWNER)
    } else {
        let text = format!("{}:{}", after.0, after.1);
        setxattr(&path, OWNER, text.as_bytes(), XattrFlags::empty())
    };
    match written {
        // A file system without user attributes stores no owners; the caller decides if builds may run there.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        written => written,
    }
}

/// Returns the mode after a change of ownership: set-group-id stays if it only means mandatory locking.
fn without_set_id(mode: Mode) -> Mode {
    let mut cleared = mode - Mode::SUID;
    if mode.contains(Mode::XGRP) {
        cleared -= Mode::SGID;
    }
    cleared
}

/// Parses a recorded owner.
pub fn parse(text: &[u8]) -> (u32, u32) {
    let ids = std::str::from_utf8(text).ok().and_then(|text| text.split_once(':'));
    let number = |text: &str| text.parse().unwrap_or(0);
    ids.map_or((0, 0), |(uid, gid)| (number(uid), number(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_modes() {
        assert_eq!(parse(b"33:65534"), (33, 65534));
        assert_eq!(parse(b"x:4"), (0, 4));
        assert_eq!(parse(b"\xff"), (0, 0));
        for (before, after) in [(0o4755, 0o755), (0o6755, 0o755), (0o2644, 0o2644), (0o1777, 0o1777)] {
            let mode = Mode::from_raw_mode(before);
            assert_eq!(without_set_id(mode).as_raw_mode(), after, "{before:o}");
        }
    }
}
