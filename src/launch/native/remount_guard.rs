//! Restores the guard on a path after a program of the host has replaced the path.
//!
//! A guard is a mount on a path: read-only, empty, or an overlay. When the host removes the path or renames another file over it, the
//! kernel removes the mount, inside the sandbox as well. When the host renames the path, the mount moves along. A separate process of the
//! sandbox keeps the right to mount. The kernel notifies it of each such change, and it mounts again within about a millisecond. It makes
//! the new file read-only, also in place of an overlay, and covers a hidden path with an empty file or directory. A program that writes in
//! exactly that moment wins, so the launcher also compares such files at the end.
//!
//! The program may stop or kill this process; the end of this process ends the sandbox.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, open};
use rustix::io::Errno;
use rustix::thread::set_name;

use super::dir_watch::Changes;
use super::mounts::{cover, make_read_only, open_in};
use crate::failure::{Failure, StepContext};
use crate::kernel::sys;
use crate::spec::{Access, Mount, Spec};

/// A guarded path.
struct Guarded<'a> {
    path: &'a Path,
    /// The guest path of the mount around it.
    top: &'a Path,
    by: Guard,
}

/// The guard of a path.
enum Guard {
    /// A read-only mount.
    ReadOnly,
    /// An overlay, by its root: an open descriptor keeps its device number from being reused.
    Layer(OwnedFd),
    /// An empty file or directory, on one of these devices.
    Empty(BTreeSet<u64>),
}

/// Starts the process, if there are paths to guard. Call it before privileges are dropped.
pub fn start(spec: &Spec) -> Result<Option<i32>, Failure> {
    let step = "guarding files";
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during(step)?;
    let mut paths = guarded(spec, &root).during(step)?;
    if paths.is_empty() {
        return Ok(None);
    }
    let dirs: BTreeSet<PathBuf> = (paths.iter())
        .flat_map(|one| one.path.ancestors().skip(1).take_while(|dir| dir.starts_with(one.top)).map(Path::to_owned))
        .collect();
    if let Some(pid) = sys::fork().during(step)? {
        return Ok(Some(pid));
    }
    let _ = set_name(c"silo-guard");
    // A program that sends these signals to all processes of its session means its own ones.
    let _ = sys::block_signals(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM]);
    // Close the others: the host must detect the end of PID 1 by its socket.
    let layers = paths.iter().filter_map(|one| if let Guard::Layer(layer) = &one.by { Some(layer) } else { None });
    let _ = close_all_but(layers.chain([&root]));
    // Its exit ends the sandbox, which reports the reason.
    let Ok(mut changes) = Changes::new() else { sys::exit(1) };
    loop {
        // A directory that was replaced needs a new watch.
        if changes.watch(dirs.iter().map(PathBuf::as_path)).is_err() {
            sys::exit(1);
        }
        // After adding the watches, because a replacement may have come earlier.
        for one in &mut paths {
            // A path that is gone is guarded when it reappears.
            let _ = one.guard(&root);
        }
        if changes.wait().is_err() {
            sys::exit(1);
        }
    }
}

/// Finds the paths that can lose their guard: those within the mount of a host directory that the sandbox or the host writes.
fn guarded<'a>(spec: &'a Spec, root: &OwnedFd) -> Result<Vec<Guarded<'a>>, Errno> {
    let within = |path: &Path| -> Option<&'a Mount> {
        let outer = spec.mounts.iter().filter(|mount| path.starts_with(&mount.guest) && path != mount.guest);
        outer.max_by_key(|mount| mount.guest.as_os_str().len())
    };
    let mut paths = Vec::new();
    for path in &spec.read_only {
        if let Some(mount) = within(path).filter(|mount| mount.access == Access::ReadWrite) {
            paths.push(Guarded { path, top: &mount.guest, by: Guard::ReadOnly });
        }
    }
    for path in spec.overlays.iter().flat_map(|overlay| &overlay.guests) {
        let Some(mount) = within(path) else { continue };
        let (top, found) = (open_in(root.as_fd(), &mount.guest)?, open_in(root.as_fd(), path));
        // Read-only from the start if there is no overlay, or if it was lost already.
        let is_layer = |found: &OwnedFd| Ok::<bool, Errno>(fstat(found)?.st_dev != fstat(&top)?.st_dev);
        let by = match found {
            Ok(found) if is_layer(&found)? => Guard::Layer(found),
            Ok(_) | Err(_) => Guard::ReadOnly,
        };
        paths.push(Guarded { path, top: &mount.guest, by });
    }
    for path in &spec.hidden {
        let (Some(mount), Ok(found)) = (within(path), open_in(root.as_fd(), path)) else { continue };
        // A file that the host has already replaced is on the project's own device, and not hidden.
        let top = open_in(root.as_fd(), &mount.guest)?;
        let device = fstat(&found)?.st_dev;
        let devices = if device == fstat(&top)?.st_dev { BTreeSet::new() } else { BTreeSet::from([device]) };
        paths.push(Guarded { path, top: &mount.guest, by: Guard::Empty(devices) });
    }
    Ok(paths)
}

impl Guarded<'_> {
    /// Mounts the guard on the path, unless it is in place.
    fn guard(&mut self, root: &OwnedFd) -> Result<(), Errno> {
        let found = open_in(root.as_fd(), self.path)?;
        let device = fstat(&found)?.st_dev;
        let is_read_only = fstatvfs(&found)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        match &mut self.by {
            Guard::ReadOnly if is_read_only => Ok(()),
            Guard::Layer(_) if is_read_only => Ok(()),
            Guard::Layer(layer) if device == fstat(&*layer)?.st_dev => Ok(()),
            Guard::ReadOnly | Guard::Layer(_) => make_read_only(root, self.path),
            Guard::Empty(devices) if devices.contains(&device) => Ok(()),
            Guard::Empty(devices) => {
                cover(root, &found)?;
                devices.insert(fstat(open_in(root.as_fd(), self.path)?)?.st_dev);
                Ok(())
            }
        }
    }
}

/// Closes every descriptor but these.
pub fn close_all_but<'a>(kept: impl Iterator<Item = &'a OwnedFd>) -> std::io::Result<()> {
    let kept: BTreeSet<u32> = kept.map(|fd| u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)).collect();
    let mut from = 0;
    for fd in kept {
        if fd > from {
            sys::close_range(from, fd - 1)?;
        }
        from = fd + 1;
    }
    sys::close_range(from, u32::MAX)
}
