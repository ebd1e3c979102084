//! Renames of directories in review mode.
//!
//! The project is the lower layer of an overlay then. The kernel renames a directory of a lower layer only if the overlay may store a
//! redirection, which it refuses to an ordinary user's overlay: the call fails with `EXDEV`. `mv` copies the directory then, but `git mv`,
//! `os.rename` and most programs fail.
//!
//! So the filter passes `rename` to PID 1. PID 1 lets the kernel rename everything but directories. It renames a directory itself. If that
//! fails with `EXDEV`, a child process links all its files into a new directory beside the destination, renames the new directory, and
//! removes the old one. The destination appears at once, and an error leaves the old directory as it was. The files keep their inodes,
//! their data, and their open descriptors. A process with its working directory in the old one has a removed directory.
//!
//! This is not a security boundary: PID 1 may do no more than the program. A program that restricts itself further, as with Landlock, is not
//! restricted in renames of directories.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, StatxFlags, Timestamps, XattrFlags, fchmod, fgetxattr, flistxattr, fsetxattr, fstat,
    futimens, linkat, mkdirat, openat, renameat_with, statat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::thread::set_name;

use super::syscall_path::{Named, Verdict, split};
use crate::kernel::notice::{self, Notice};
use crate::kernel::sys;
use crate::spec::Spec;

/// Deepest tree that is linked. Each level keeps two descriptors open.
const MAX_DEPTH: usize = 200;
/// Times that a directory is emptied, if the program creates files in it meanwhile.
const ROUNDS: usize = 8;
/// Limit on the bytes of a list of attributes, and of one attribute's value (the kernel's limits).
const ATTRIBUTE_BYTES: usize = 64 << 10;

/// A path: its parent directory, opened, and its last component.
struct Place {
    parent: OwnedFd,
    name: OsString,
}

/// Answers the renames of one sandbox.
pub struct ReviewedRenames(());

impl ReviewedRenames {
    /// Returns it in review mode.
    pub fn of(spec: &Spec) -> Option<ReviewedRenames> {
        spec.is_reviewed().then_some(ReviewedRenames(()))
    }

    /// Answers a rename, or lets the kernel make the call.
    pub fn judge(&self, notice: &Notice, root: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> Result<Verdict, Errno> {
        match libc::c_long::from(notice.call) {
            libc::SYS_renameat | libc::SYS_renameat2 | notice::RENAME => judge(notice, root, listener),
            _ => Ok(Verdict::Continue),
        }
    }
}

fn judge(notice: &Notice, root: BorrowedFd<'_>, listener: BorrowedFd<'_>) -> Result<Verdict, Errno> {
    let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
    let Some((from, to, flags)) = read(notice, pid, root) else { return Ok(Verdict::Continue) };
    if !sys::still_waits(listener, notice.id) {
        return Err(Errno::SRCH);
    }
    match renameat_with(&from.parent, &from.name, &to.parent, &to.name, flags) {
        Err(Errno::XDEV) if mount_id(from.parent.as_fd())? == mount_id(to.parent.as_fd())? => {}
        done => return done.map(|()| Verdict::Done),
    }
    // It may take long, and PID 1 must answer other processes and the host.
    match sys::fork() {
        Ok(Some(_)) => Ok(Verdict::Later),
        Ok(None) => {
            let _ = set_name(c"silo-rename");
            let _ = sys::block_signals(sys::NOT_OURS);
            let errno = relink(&from, &to, flags).err().map_or(0, Errno::raw_os_error);
            // The caller may have been killed; then no answer is needed.
            let _ = sys::answer(listener, notice.id, errno);
            sys::exit(0)
        }
        Err(_) => Err(Errno::XDEV),
    }
}

/// Reads a call's arguments. `None` if the kernel must answer: the source is no directory, or a path is wrong.
fn read(notice: &Notice, pid: i32, root: BorrowedFd<'_>) -> Option<(Place, Place, RenameFlags)> {
    let args = notice.args;
    let cwd = u64::from(libc::AT_FDCWD as u32);
    let (from, to, flags) = match libc::c_long::from(notice.call) {
        libc::SYS_renameat => ((args[0], args[1]), (args[2], args[3]), 0),
        libc::SYS_renameat2 => ((args[0], args[1]), (args[2], args[3]), args[4] as u32),
        _ => ((cwd, args[0]), (cwd, args[1]), 0),
    };
    let flags = RenameFlags::from_bits(flags).filter(|flags| RenameFlags::NOREPLACE.contains(*flags))?;
    let from = Place::open(pid, from, root)?;
    let found = statat(&from.parent, &from.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        return None;
    }
    Some((from, Place::open(pid, to, root)?, flags))
}

impl Place {
    fn open(pid: i32, (directory, path): (u64, u64), root: BorrowedFd<'_>) -> Option<Place> {
        let named = Named::at(pid, directory, path, 0).ok()?;
        let (parent, name) = split(named.path.as_deref()?.to_bytes())?;
        let parent = Named { path: Some(parent), follow: true, ..named }.open(root, pid).ok()?;
        Some(Place { parent, name })
    }
}

/// Renames a directory by linking its files.
fn relink(from: &Place, to: &Place, flags: RenameFlags) -> Result<(), Errno> {
    let old = open_dir(from.parent.as_fd(), &from.name).map_err(|_| Errno::XDEV)?;
    let (staged, new) = stage(to.parent.as_fd())?;
    let renamed = link_files(&old, &new, 0)
        // The kernel's own answer to the call, where a file cannot be linked: one of another user, or a mount in the directory.
        .map_err(|error| if matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::IO) { error } else { Errno::XDEV })
        .and_then(|()| renameat_with(&to.parent, &staged, &to.parent, &to.name, flags));
    if let Err(error) = renamed {
        let _ = remove(to.parent.as_fd(), &staged, &new);
        return Err(error);
    }
    // The caller's directory has its new name. A file that the program creates under the old name meanwhile is kept there.
    let _ = remove(from.parent.as_fd(), &from.name, &old);
    Ok(())
}

/// Makes a directory beside the destination. A run that was killed may have left one of the same name.
fn stage(parent: BorrowedFd<'_>) -> Result<(String, OwnedFd), Errno> {
    let own = rustix::process::getpid();
    let mut number = 0;
    loop {
        let name = format!(".silo-rename-{own}-{number}");
        match make_dir(parent, &name) {
            Err(Errno::EXIST) => number += 1,
            made => return made.map(|dir| (name, dir)),
        }
    }
}

/// Links all files of a directory into another one.
fn link_files(old: &OwnedFd, new: &OwnedFd, depth: usize) -> Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::XDEV);
    }
    for name in names(old)? {
        let found = statat(old, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            linkat(old, &name, new, &name, AtFlags::empty())?;
            continue;
        }
        let inner = open_dir(old.as_fd(), &name)?;
        if mount_id(inner.as_fd())? != mount_id(old.as_fd())? {
            return Err(Errno::XDEV);
        }
        link_files(&inner, &make_dir(new.as_fd(), &name)?, depth + 1)?;
    }
    copy_attributes(old, new)
}

/// Gives a directory the mode, the times and the attributes of another one.
fn copy_attributes(old: &OwnedFd, new: &OwnedFd) -> Result<(), Errno> {
    let mut list = vec![0; ATTRIBUTE_BYTES];
    let length = flistxattr(old, &mut list[..]).unwrap_or(0);
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if !(name.to_bytes().starts_with(b"user.") || name.to_bytes().starts_with(b"system.posix_acl_")) {
            continue;
        }
        let mut value = vec![0; ATTRIBUTE_BYTES];
        let length = fgetxattr(old, name, &mut value[..])?;
        fsetxattr(new, name, &value[..length], XattrFlags::empty())?;
    }
    let found = fstat(old)?;
    fchmod(new, Mode::from_raw_mode(found.st_mode & 0o7777))?;
    let time = |seconds, nanos| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    let times = Timestamps {
        last_access: time(found.st_atime as _, found.st_atime_nsec),
        last_modification: time(found.st_mtime as _, found.st_mtime_nsec),
    };
    futimens(new, &times)
}

/// Removes a directory with all its files.
fn remove<P: rustix::path::Arg + Copy>(parent: BorrowedFd<'_>, name: P, dir: &OwnedFd) -> Result<(), Errno> {
    // A directory without write permission cannot be emptied.
    let _ = fchmod(dir, Mode::RWXU);
    let mut outcome = Err(Errno::NOTEMPTY);
    for _ in 0..ROUNDS {
        for name in names(dir)? {
            match unlinkat(dir, &name, AtFlags::empty()) {
                Err(Errno::ISDIR) => remove(dir.as_fd(), name.as_c_str(), &open_dir(dir.as_fd(), &name)?)?,
                Err(Errno::NOENT) => {}
                removed => removed?,
            }
        }
        outcome = unlinkat(parent, name, AtFlags::REMOVEDIR);
        if outcome != Err(Errno::NOTEMPTY) {
            break;
        }
    }
    outcome
}

/// Returns the names in a directory.
fn names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let is_own = |name: &CStr| name == c"." || name == c"..";
    let entries = Dir::read_from(dir)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    entries.filter(|name| !name.as_ref().is_ok_and(|name| is_own(name))).collect()
}

fn make_dir(parent: BorrowedFd<'_>, name: impl rustix::path::Arg + Copy) -> Result<OwnedFd, Errno> {
    mkdirat(parent, name, Mode::RWXU)?;
    open_dir(parent, name)
}

fn open_dir(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn mount_id(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id)
}
