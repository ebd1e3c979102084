//! Excluded directories of a project, which the sandbox replaces with its own: the program may remove one and create it again.
//!
//! Such a directory is a mount on a host directory. The kernel refuses to remove or rename a mount point (`EBUSY`), and without the mount
//! the host's directory would appear. So the filter passes calls that remove, create or rename directories to PID 1. PID 1 lets the kernel
//! make every call on another path. For an excluded directory:
//!
//! * Removing an empty one covers it. The cover is the `fd` directory of a process that has ended: for `stat`, `open` and `readdir` the
//!   path does not exist. PID 1 itself answers calls that do not query the file system (`access`, `open` with `O_PATH`).
//! * Creating it removes the cover and sets the mode.
//! * Renaming it, or renaming another directory over it, fails with `EXDEV`, as between two file systems. `mv` and most programs then
//!   copy.
//!
//! This is not a security boundary: every call that PID 1 lets through is one that the program may make. Mounting needs a privilege that
//! PID 1 drops, so a separate process keeps it, as for [`super::remount_guard`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, StatVfsMountFlags, accessat, chmodat, fstat, fstatvfs, open, openat};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::set_name;

use super::mounts::{clone_tree, move_onto, open_in};
use super::remount_guard::close_all_but;
use super::syscall_path::{Named, Verdict, split};
use crate::failure::{Failure, StepContext};
use crate::kernel::notice::{self, Notice};
use crate::kernel::sys;
use crate::spec::Spec;

/// Time limit for the mounting process. It takes microseconds, unless the program has stopped it.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

const COVER: u8 = 1;
const UNCOVER: u8 = 0;

/// The excluded directories of one sandbox, and the connection to the process that covers them.
pub struct ExcludedDirs {
    places: Vec<Place>,
    /// Numbers of the directories that the program has removed.
    absent: RefCell<BTreeSet<u8>>,
    mounter: OwnedFd,
}

/// A directory, by its parent's inode and its name, because the project is visible at two paths.
#[derive(PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
    name: OsString,
}

/// The path argument of a call: its parent directory, opened, and the last component.
struct Target {
    parent: OwnedFd,
    name: OsString,
    /// The number of the excluded directory, if the path is one.
    place: Option<u8>,
}

/// Returns true if this module answers the call.
pub fn is_judged(call: i32) -> bool {
    !matches!(libc::c_long::from(call), libc::SYS_fchmod | libc::SYS_fchmodat | notice::FCHMODAT2 | notice::CHMOD)
}

/// Starts the mounting process, if the spec has such directories. Call it before privileges are dropped.
pub fn start(spec: &Spec) -> Result<Option<ExcludedDirs>, Failure> {
    let step = "preparing excluded directories";
    if spec.removable.is_empty() {
        return Ok(None);
    }
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during(step)?;
    let (mut places, mut mounts): (Vec<Place>, Vec<Vec<OwnedFd>>) = (Vec::new(), Vec::new());
    for guest in &spec.removable {
        let (Some(parent), Some(name)) = (guest.parent(), guest.file_name()) else { continue };
        let parent = fstat(open_in(root.as_fd(), parent).during(step)?).during(step)?;
        let place = Place { device: parent.st_dev, inode: parent.st_ino, name: name.to_owned() };
        let mount = open_in(root.as_fd(), guest).during(step)?;
        match places.iter().position(|known| *known == place) {
            Some(number) => mounts[number].push(mount),
            None => {
                places.push(place);
                mounts.push(vec![mount]);
            }
        }
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during(step)?;
    if sys::fork().during(step)?.is_some() {
        return Ok(Some(ExcludedDirs { places, absent: RefCell::default(), mounter: ours }));
    }
    drop(ours);
    let _ = set_name(c"silo-mounter");
    let _ = sys::block_signals(sys::NOT_OURS);
    let _ = close_all_but(mounts.iter().flatten().chain([&theirs]));
    // Without this process, calls fail as the kernel decides.
    let _ = serve(&theirs, &mounts);
    sys::exit(0)
}

/// Covers and uncovers directories at PID 1's request, until PID 1 is gone.
fn serve(socket: &OwnedFd, mounts: &[Vec<OwnedFd>]) -> Result<(), Errno> {
    let mut covers: Vec<Vec<OwnedFd>> = mounts.iter().map(|_| Vec::new()).collect();
    let mut request = [0; 2];
    while recv(socket, &mut request, RecvFlags::empty())?.1 == request.len() {
        let [number, wish] = request;
        let outcome = match (mounts.get(usize::from(number)), covers.get_mut(usize::from(number))) {
            (Some(mounts), Some(covers)) if wish == COVER => put(mounts, covers),
            (Some(_), Some(covers)) => take_away(covers),
            _ => Ok(()),
        };
        let errno = outcome.err().map_or(0, Errno::raw_os_error);
        send(socket, &errno.to_ne_bytes(), SendFlags::empty())?;
    }
    Ok(())
}

/// Covers a directory with the `fd` directory of a process, and ends the process. A kernel older than 6.2 still reports that the directory
/// exists; then the cover is taken away again, and the removed directory stays visible and empty.
fn put(mounts: &[OwnedFd], covers: &mut Vec<OwnedFd>) -> Result<(), Errno> {
    let number = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let Some(pid) = sys::fork().map_err(number)? else {
        loop {
            // The parent kills this process soon.
            let _ = poll(&mut [], None);
        }
    };
    let attached = attach(mounts, covers, pid);
    sys::kill(pid, libc::SIGKILL).map_err(number)?;
    waitpid(Pid::from_raw(pid), WaitOptions::empty())?;
    if attached.is_err() || covers.iter().any(|cover| fstat(cover).is_ok()) {
        take_away(covers)?;
    }
    attached
}

fn attach(mounts: &[OwnedFd], covers: &mut Vec<OwnedFd>, pid: i32) -> Result<(), Errno> {
    for mount in mounts {
        let tree = clone_tree(CWD, format!("/proc/{pid}/fd"))?;
        move_onto(&tree, mount)?;
        covers.push(tree);
    }
    Ok(())
}

fn take_away(covers: &mut Vec<OwnedFd>) -> Result<(), Errno> {
    while let Some(cover) = covers.pop() {
        unmount(format!("/proc/self/fd/{}", cover.as_raw_fd()), UnmountFlags::DETACH)?;
    }
    Ok(())
}

impl ExcludedDirs {
    /// Answers a call, or lets the kernel make it.
    pub fn judge(&self, notice: &Notice, root: BorrowedFd<'_>, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
        let judging = PendingCall { removable: self, root, pid, still_waits };
        let args = notice.args;
        let cwd = libc::AT_FDCWD as u32 as u64;
        match libc::c_long::from(notice.call) {
            libc::SYS_unlinkat if args[2] as u32 & libc::AT_REMOVEDIR as u32 != 0 => judging.remove(args[0], args[1]),
            libc::SYS_unlinkat | libc::SYS_openat | libc::SYS_faccessat | libc::SYS_faccessat2 => judging.find(args[0], args[1]),
            libc::SYS_mkdirat => judging.make(args[0], args[1], args[2]),
            libc::SYS_renameat => judging.rename([(args[0], args[1]), (args[2], args[3])], 0),
            libc::SYS_renameat2 => judging.rename([(args[0], args[1]), (args[2], args[3])], args[4]),
            other => judging.of_older_calls(other, args, cwd),
        }
    }

    fn is_absent(&self, place: u8) -> bool {
        self.absent.borrow().contains(&place)
    }

    /// Returns the number of the excluded directory with this parent and name.
    fn place(&self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<Option<u8>, Errno> {
        if !self.places.iter().any(|place| place.name == name) {
            return Ok(None);
        }
        let stat = fstat(parent)?;
        let is_it = |place: &Place| place.name == name && place.device == stat.st_dev && place.inode == stat.st_ino;
        Ok(self.places.iter().position(is_it).and_then(|number| u8::try_from(number).ok()))
    }

    fn mount(&self, place: u8, wish: u8) -> Result<(), Errno> {
        send(&self.mounter, &[place, wish], SendFlags::NOSIGNAL)?;
        if poll(&mut [PollFd::new(&self.mounter, PollFlags::IN)], Some(&PATIENCE))? == 0 {
            return Err(Errno::BUSY);
        }
        let mut answer = [0; 4];
        match recv(&self.mounter, &mut answer, RecvFlags::DONTWAIT)?.1 {
            4 if answer == [0; 4] => Ok(()),
            4 => Err(Errno::from_raw_os_error(i32::from_ne_bytes(answer))),
            _ => Err(Errno::BUSY),
        }
    }
}

/// A call to be answered.
struct PendingCall<'a> {
    removable: &'a ExcludedDirs,
    root: BorrowedFd<'a>,
    pid: i32,
    still_waits: &'a dyn Fn() -> bool,
}

impl PendingCall<'_> {
    #[cfg(target_arch = "x86_64")]
    fn of_older_calls(&self, call: libc::c_long, args: [u64; 6], cwd: u64) -> Result<Verdict, Errno> {
        match call {
            libc::SYS_access | libc::SYS_open => self.find(cwd, args[0]),
            libc::SYS_rmdir => self.remove(cwd, args[0]),
            libc::SYS_mkdir => self.make(cwd, args[0], args[1]),
            libc::SYS_rename => self.rename([(cwd, args[0]), (cwd, args[1])], 0),
            _ => Ok(Verdict::Continue),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_older_calls(&self, _call: libc::c_long, _args: [u64; 6], _cwd: u64) -> Result<Verdict, Errno> {
        Ok(Verdict::Continue)
    }

    /// Opens the parent directory of a path, if the last component may be an excluded directory; otherwise the kernel answers.
    fn target(&self, directory: u64, path: u64) -> Option<Target> {
        let named = Named::at(self.pid, directory, path, 0).ok()?;
        let (parent, name) = split(named.path.as_deref()?.to_bytes())?;
        if !self.removable.places.iter().any(|place| place.name == name) {
            return None;
        }
        let parent = Named { path: Some(parent), follow: true, ..named }.open(self.root, self.pid).ok()?;
        let place = self.removable.place(parent.as_fd(), &name).ok()?;
        Some(Target { parent, name, place })
    }

    /// Returns the target and the number, if the path is an excluded directory.
    fn own(&self, directory: u64, path: u64) -> Option<(Target, u8)> {
        let target = self.target(directory, path)?;
        let place = target.place?;
        Some((target, place))
    }

    fn remove(&self, directory: u64, path: u64) -> Result<Verdict, Errno> {
        let Some((target, place)) = self.own(directory, path) else { return Ok(Verdict::Continue) };
        if self.removable.is_absent(place) {
            return Err(Errno::NOENT);
        }
        self.check(&target)?;
        self.is_empty(&target)?;
        self.removable.mount(place, COVER)?;
        self.removable.absent.borrow_mut().insert(place);
        Ok(Verdict::Done)
    }

    /// Answers a call that must fail while the directory is removed, because the kernel would find the cover.
    fn find(&self, directory: u64, path: u64) -> Result<Verdict, Errno> {
        match self.own(directory, path) {
            Some((_, place)) if self.removable.is_absent(place) => Err(Errno::NOENT),
            _ => Ok(Verdict::Continue),
        }
    }

    fn make(&self, directory: u64, path: u64, mode: u64) -> Result<Verdict, Errno> {
        let Some((target, place)) = self.own(directory, path) else { return Ok(Verdict::Continue) };
        if !self.removable.is_absent(place) {
            return Ok(Verdict::Continue);
        }
        self.check(&target)?;
        let mode = Mode::from_raw_mode(mode as u32 & 0o1777 & !umask(self.pid));
        self.removable.mount(place, UNCOVER)?;
        self.removable.absent.borrow_mut().remove(&place);
        chmodat(&target.parent, &target.name, mode, AtFlags::empty())?;
        Ok(Verdict::Done)
    }

    fn rename(&self, paths: [(u64, u64); 2], flags: u64) -> Result<Verdict, Errno> {
        let [from, to] = paths.map(|(directory, path)| self.own(directory, path));
        if let Some((_, place)) = from {
            return Err(if self.removable.is_absent(place) { Errno::NOENT } else { Errno::XDEV });
        }
        let Some((target, place)) = to else { return Ok(Verdict::Continue) };
        let source = Named::at(self.pid, paths[0].0, paths[0].1, libc::AT_SYMLINK_NOFOLLOW as u64)?.open(self.root, self.pid)?;
        if FileType::from_raw_mode(fstat(&source)?.st_mode) != FileType::Directory {
            return Ok(Verdict::Continue);
        }
        if !self.removable.is_absent(place) {
            if flags as u32 & libc::RENAME_NOREPLACE != 0 {
                return Err(Errno::EXIST);
            }
            self.is_empty(&target)?;
        }
        Err(Errno::XDEV)
    }

    /// Checks that the caller still waits, and may write the parent directory.
    fn check(&self, target: &Target) -> Result<(), Errno> {
        if !(self.still_waits)() {
            return Err(Errno::SRCH);
        }
        if fstatvfs(&target.parent)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Errno::ROFS);
        }
        accessat(&target.parent, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())
    }

    /// Fails if the directory contains entries other than removed directories.
    fn is_empty(&self, target: &Target) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = openat(&target.parent, &target.name, flags, Mode::empty())?;
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let is_gone =
                || Ok::<bool, Errno>(self.removable.place(dir.as_fd(), name)?.is_some_and(|place| self.removable.is_absent(place)));
            if name != "." && name != ".." && !is_gone()? {
                return Err(Errno::NOTEMPTY);
            }
        }
        Ok(())
    }
}

/// Returns a process's umask, or the usual default if it cannot be read.
fn umask(pid: i32) -> u32 {
    const USUAL: u32 = 0o022;
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(USUAL)
}
