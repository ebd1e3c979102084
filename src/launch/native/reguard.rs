//! Puts a guard back on a path when a program of the host has replaced it.
//!
//! A guard is a mount on a path: read-only, empty, or a layer. The kernel takes the mount away, here too, when the host removes
//! the path or renames another file over it, and moves it along when the host renames the path. A process of the sandbox's
//! own, which keeps the right to mount, is told by the kernel of each such change and mounts again, within about a
//! millisecond: read-only what is there, in place of a layer too, and something empty over what is hidden. A program that
//! writes in exactly that moment wins, so whoever launches also compares such files at the end.
//!
//! The program may stop or kill this process, whose end is then the end of the sandbox.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, open};
use rustix::io::Errno;
use rustix::thread::set_name;

use super::changes::Changes;
use super::root::{self, open_in};
use super::sys;
use crate::launch::host::failure::{During, Failure};
use crate::launch::spec::{Access, Mount, Spec};

/// A path that is guarded.
struct Guarded<'a> {
    path: &'a Path,
    /// The mount that it lies in.
    top: &'a Path,
    by: Guard,
}

/// What guards a path.
enum Guard {
    /// A read-only mount.
    ReadOnly,
    /// A layer, of which this is the root: a descriptor of it keeps the number of its device from being used again.
    Layer(OwnedFd),
    /// Something empty, on one of these devices.
    Empty(BTreeSet<u64>),
}

/// Starts the process, if there is a path that it would have to guard; it must be called before rights are given up.
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
    // A program that ends all processes of its session in a friendly way means its own.
    let _ = sys::block_signals(&[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM]);
    // Nothing but these: the host must see PID 1's end of its socket close.
    let layers = paths.iter().filter_map(|one| if let Guard::Layer(layer) = &one.by { Some(layer) } else { None });
    let _ = close_all_but(layers.chain([&root]));
    // Its end ends the sandbox, which says so.
    let Ok(mut changes) = Changes::new() else { sys::exit(1) };
    loop {
        // A directory that was replaced is another one to watch.
        if changes.watch(dirs.iter().map(PathBuf::as_path)).is_err() {
            sys::exit(1);
        }
        // After that, for replacements that came before there was a watch.
        for one in &mut paths {
            // One that is gone is guarded when it comes again.
            let _ = one.guard(&root);
        }
        if changes.wait().is_err() {
            sys::exit(1);
        }
    }
}

/// Finds the paths whose guards can fall off: those within a mount of a host directory that is written, here or by the host.
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
        // Read-only from the start where there can be no layer, or where it has fallen off already.
        let is_layer = |found: &OwnedFd| Ok::<bool, Errno>(fstat(found)?.st_dev != fstat(&top)?.st_dev);
        let by = match found {
            Ok(found) if is_layer(&found)? => Guard::Layer(found),
            Ok(_) | Err(_) => Guard::ReadOnly,
        };
        paths.push(Guarded { path, top: &mount.guest, by });
    }
    for path in &spec.hidden {
        let (Some(mount), Ok(found)) = (within(path), open_in(root.as_fd(), path)) else { continue };
        // What the host has replaced already is on the project's own device, and not hidden.
        let top = open_in(root.as_fd(), &mount.guest)?;
        let device = fstat(&found)?.st_dev;
        let devices = if device == fstat(&top)?.st_dev { BTreeSet::new() } else { BTreeSet::from([device]) };
        paths.push(Guarded { path, top: &mount.guest, by: Guard::Empty(devices) });
    }
    Ok(paths)
}

impl Guarded<'_> {
    /// Mounts a guard on the path, unless one is there.
    fn guard(&mut self, root: &OwnedFd) -> Result<(), Errno> {
        let found = open_in(root.as_fd(), self.path)?;
        let device = fstat(&found)?.st_dev;
        let is_read_only = fstatvfs(&found)?.f_flag.contains(StatVfsMountFlags::RDONLY);
        match &mut self.by {
            Guard::ReadOnly if is_read_only => Ok(()),
            Guard::Layer(_) if is_read_only => Ok(()),
            Guard::Layer(layer) if device == fstat(&*layer)?.st_dev => Ok(()),
            Guard::ReadOnly | Guard::Layer(_) => root::make_read_only(root, self.path),
            Guard::Empty(devices) if devices.contains(&device) => Ok(()),
            Guard::Empty(devices) => {
                root::cover(root, &found)?;
                devices.insert(fstat(open_in(root.as_fd(), self.path)?)?.st_dev);
                Ok(())
            }
        }
    }
}

fn close_all_but<'a>(kept: impl Iterator<Item = &'a OwnedFd>) -> std::io::Result<()> {
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
