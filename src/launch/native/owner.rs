//! Changes of ownership in a build step: recorded as an extended attribute, answered as success.
//!
//! A step's user namespace has one user, so the kernel can give a file to nobody else. The filter
//! hands every call of the chown family to PID 1, which does what the kernel would have done, but
//! writes the owner into `user.silo.owner`. PID 1 lives in the sandbox's own root, from which no
//! path leads outside; what is left is what a hostile step could make it mistake:
//!
//! * another process's memory and files, by letting a process id be reused: after everything was
//!   opened through `/proc/<pid>`, the kernel is asked whether the very same call still waits;
//! * PID 1's own descriptors, by a path through `/proc/self`: such links are not followed;
//! * a host file that was mounted or handed down as a stream: only what lies on the root's own
//!   mount is touched, anything else is answered with success and left alone.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, XattrFlags, chmodat, getxattr, open, openat2, removexattr, setxattr,
    statx,
};
use rustix::io::Errno;

use super::sys::{self, Notice};
use crate::launch::host::failure::{During, Failure};

/// Where an owner is recorded, as `uid:gid` in decimal; absent means 0:0.
const OWNER: &str = "user.silo.owner";

/// The longest path the kernel takes, its NUL included.
const PATH_BYTES: usize = 4096;

/// Bytes read at a time: never across a page that may not be there.
const PAGE_BYTES: u64 = 4096;

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
    directory: i32,
    path: Option<CString>,
    follow: bool,
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

    /// The descriptor that is readable while a call waits.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers the call that waits, if it still does.
    pub fn answer_one(&self) {
        // The caller may have been killed meanwhile, here and below; then nobody waits for an answer.
        let Ok(notice) = sys::next_notice(self.listener.as_fd()) else { return };
        let errno = match self.serve(&notice) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        };
        let _ = sys::answer(self.listener.as_fd(), notice.id, errno);
    }

    fn serve(&self, notice: &Notice) -> Result<(), Errno> {
        let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
        let change = read(notice, pid)?;
        if change.path.as_ref().is_some_and(is_elsewhere) {
            return Ok(());
        }
        let target = self.open(&change, pid)?;
        if !sys::still_waits(self.listener.as_fd(), notice.id) {
            return Err(Errno::SRCH);
        }
        if mount_id(target.as_fd())? != self.root_mount {
            return Ok(());
        }
        record(target.as_fd(), change.uid, change.gid)
    }

    /// Opens what the call means, as the caller would, without any right to its content.
    fn open(&self, change: &Change, pid: i32) -> Result<OwnedFd, Errno> {
        let path = change.path.as_deref().unwrap_or(c"");
        if path.to_bytes().first() == Some(&b'/') {
            return self.open_at(self.root.as_fd(), change, path);
        }
        // Links of /proc that the kernel follows without a path; they are the caller's own.
        let start = match change.directory {
            libc::AT_FDCWD => format!("/proc/{pid}/cwd"),
            fd if fd >= 0 => format!("/proc/{pid}/fd/{fd}"),
            _ => return Err(Errno::BADF),
        };
        let start = open(start, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| if error == Errno::NOENT { Errno::BADF } else { error })?;
        if path.is_empty() {
            return Ok(start);
        }
        self.open_at(start.as_fd(), change, path)
    }

    fn open_at(&self, start: BorrowedFd<'_>, change: &Change, path: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
        let last = if change.follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::PATH | OFlags::CLOEXEC | last;
        openat2(start, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
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
    // Ids, descriptors and flags are 32 bits wide; the kernel ignores what is above, and so do we.
    let id = |index: usize| args[index] as u32;
    let call = libc::c_long::from(notice.call);
    if call == libc::SYS_fchown {
        let directory = args[0] as u32 as i32;
        // AT_FDCWD means nothing here.
        let directory = if directory < 0 { -1 } else { directory };
        return Ok(Change { directory, path: None, follow: true, uid: id(1), gid: id(2) });
    }
    if call == libc::SYS_fchownat {
        let flags = args[4] as u32 as i32;
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::INVAL);
        }
        let path = read_path(pid, args[1])?;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::NOENT);
        }
        return Ok(Change {
            directory: args[0] as u32 as i32,
            path: Some(path),
            follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0,
            uid: id(2),
            gid: id(3),
        });
    }
    // chown and lchown, which aarch64 does not have.
    let path = read_path(pid, args[0])?;
    if path.is_empty() {
        return Err(Errno::NOENT);
    }
    let follow = !is_lchown(call);
    Ok(Change { directory: libc::AT_FDCWD, path: Some(path), follow, uid: id(1), gid: id(2) })
}

#[cfg(target_arch = "x86_64")]
fn is_lchown(call: libc::c_long) -> bool {
    call == libc::SYS_lchown
}

#[cfg(not(target_arch = "x86_64"))]
fn is_lchown(_call: libc::c_long) -> bool {
    false
}

/// Reads a NUL-terminated path, page by page.
fn read_path(pid: i32, mut address: u64) -> Result<CString, Errno> {
    let mut path = Vec::with_capacity(256);
    while path.len() < PATH_BYTES {
        let in_page = (PAGE_BYTES - address % PAGE_BYTES) as usize;
        let mut part = vec![0; in_page.min(PATH_BYTES - path.len())];
        let got = sys::read_memory(pid, address, &mut part).map_err(|_| Errno::FAULT)?;
        part.truncate(got);
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            path.extend_from_slice(&part[..end]);
            return CString::new(path).map_err(|_| Errno::INVAL);
        }
        if got == 0 {
            return Err(Errno::FAULT);
        }
        path.extend_from_slice(&part);
        address = address.checked_add(got as u64).ok_or(Errno::FAULT)?;
    }
    Err(Errno::NAMETOOLONG)
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
