//! Changes of ownership in a build step: recorded as an extended attribute, answered as success.
//!
//! A step's user namespace has one user, so the kernel can give a file to nobody else. The filter
//! hands every call of the chown family to PID 1, which does what the kernel would have done, but
//! writes the owner into `user.silo.owner`. PID 1 lives in the sandbox's own root, from which no
//! path leads outside (`named.rs`). A host file that was mounted or handed down as a stream is left alone: only what lies on
//! the root's own mount is touched, anything else is answered with success.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, XattrFlags, chmodat, getxattr, open, removexattr, setxattr, statx};
use rustix::io::Errno;

use super::named::{Judge, Named};
use super::sys::{self, Notice};
use crate::launch::host::failure::{During, Failure};

/// Where an owner is recorded, as `uid:gid` in decimal; absent means 0:0.
const OWNER: &str = "user.silo.owner";

/// "Leave it as it is", as a user or group id.
const UNCHANGED: u32 = u32::MAX;

/// Answers the calls of one sandbox.
pub struct Recorder {
    listener: OwnedFd,
    root: OwnedFd,
    root_mount: u64,
}

/// A call of the chown family, as one.
struct Change {
    named: Named,
    uid: u32,
    gid: u32,
}

impl Recorder {
    /// Listens; to be made inside the sandbox's root.
    pub fn new(listener: OwnedFd) -> Result<Recorder, Failure> {
        let step = "looking at the root";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open("/", flags, Mode::empty()).during(step)?;
        let root_mount = mount_id(root.as_fd()).during(step)?;
        Ok(Recorder { listener, root, root_mount })
    }

    fn serve(&self, notice: &Notice) -> Result<(), Errno> {
        let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
        let change = read(notice, pid)?;
        if change.named.path.as_ref().is_some_and(is_elsewhere) {
            return Ok(());
        }
        let target = change.named.open(self.root.as_fd(), pid)?;
        if !sys::still_waits(self.listener.as_fd(), notice.id) {
            return Err(Errno::SRCH);
        }
        if mount_id(target.as_fd())? != self.root_mount {
            return Ok(());
        }
        record(target.as_fd(), change.uid, change.gid)
    }
}

impl Judge for Recorder {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn judge(&self, notice: &Notice) -> Result<(), Errno> {
        self.serve(notice)
    }
}

/// Whether a path is one of `/proc` or `/dev`, where nothing is recorded; and where `self` would mean
/// PID 1, as in `chown x /dev/stdout`.
fn is_elsewhere(path: &CString) -> bool {
    let path = path.to_bytes();
    path.starts_with(b"/proc/") || path.starts_with(b"/dev/")
}

/// Reads a call's arguments, the path out of the caller's memory.
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
    // chown and lchown, which aarch64 does not have.
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

/// Names the mount that a file was opened through.
fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

/// Does to a file what a change of ownership does.
fn record(file: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    // The kernel allows user attributes on files and directories only.
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(());
    }
    // The descriptor gives no access to the file's content, so it is named through /proc.
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
        // A file system without user attributes keeps no owners; builds there are the caller's to refuse.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        written => written,
    }
}

/// The bits a change of ownership leaves: set-group-id stays where it only means mandatory locking.
fn without_set_id(mode: Mode) -> Mode {
    let mut cleared = mode - Mode::SUID;
    if mode.contains(Mode::XGRP) {
        cleared -= Mode::SGID;
    }
    cleared
}

fn parse(text: &[u8]) -> (u32, u32) {
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
