//! Puts a guard back on a path when a program of the host has replaced it.
//!
//! A read-only path is a mount on it, and the kernel takes the mount away, here too, when the host removes the path or
//! renames another file over it. A process of the sandbox's own, which keeps the right to mount, is told by the kernel of each
//! such change and mounts again, within about a millisecond. A program that writes in exactly that moment wins, so whoever
//! launches also compares such files at the end.
//!
//! The program may stop or kill this process, whose end is then the end of the sandbox.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstatvfs, open};
use rustix::io::Errno;
use rustix::thread::set_name;

use super::root::{self, open_in};
use super::sys;
use crate::launch::host::failure::{During, Failure};
use crate::launch::spec::{Access, Spec};

/// Room for some events; what they say is not looked at.
const EVENT_BYTES: usize = 4096;

/// Starts the process, if there is a path that it would have to guard; it must be called before rights are given up.
pub fn start(spec: &Spec) -> Result<Option<i32>, Failure> {
    let writable = |path: &Path| {
        let outer = spec.mounts.iter().filter(|mount| path.starts_with(&mount.guest));
        outer.max_by_key(|mount| mount.guest.as_os_str().len()).filter(|mount| mount.access == Access::ReadWrite)
    };
    let paths: Vec<(&Path, &Path)> =
        spec.read_only.iter().filter_map(|path| Some((path.as_path(), writable(path)?.guest.as_path()))).collect();
    if paths.is_empty() {
        return Ok(None);
    }
    let step = "guarding files";
    let dirs: BTreeSet<PathBuf> = (paths.iter())
        .flat_map(|(path, top)| path.ancestors().skip(1).take_while(move |dir| dir.starts_with(top)).map(Path::to_owned))
        .collect();
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during(step)?;
    let events = init(CreateFlags::CLOEXEC).during(step)?;
    watch(&events, &dirs);
    if let Some(pid) = sys::fork().during(step)? {
        return Ok(Some(pid));
    }
    let _ = set_name(c"silo-guard");
    // A program that ends all processes of its session in a friendly way means its own.
    let _ = sys::block_signals(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM]);
    // Nothing but these two: the host must see PID 1's end of its socket close.
    let _ = close_all_but(&root, &events);
    loop {
        let mut buffer = [0; EVENT_BYTES];
        match rustix::io::read(&events, &mut buffer) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => sys::exit(1),
        }
        // A directory that was replaced is another one to watch.
        watch(&events, &dirs);
        for (path, _) in &paths {
            // One that is gone is guarded when it comes again.
            let _ = guard(&root, path);
        }
    }
}

fn watch(events: &OwnedFd, dirs: &BTreeSet<PathBuf>) {
    let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
    for dir in dirs {
        // One that is not there is watched when it comes: the one above it is.
        let _ = add_watch(events, dir, changes | WatchFlags::ONLYDIR);
    }
}

/// Mounts a path read-only, unless it is.
fn guard(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let is_read_only = fstatvfs(open_in(root.as_fd(), path)?)?.f_flag.contains(StatVfsMountFlags::RDONLY);
    if is_read_only { Ok(()) } else { root::make_read_only(root, path) }
}

fn close_all_but(one: &OwnedFd, other: &OwnedFd) -> std::io::Result<()> {
    let mut kept = [one.as_raw_fd(), other.as_raw_fd()].map(|fd| u32::try_from(fd).unwrap_or(u32::MAX));
    kept.sort_unstable();
    let mut from = 0;
    for fd in kept {
        if fd > from {
            sys::close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    sys::close_range(from, u32::MAX)
}
