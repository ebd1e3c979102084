//! A new `/dev`: six harmless devices of the host, a separate devpts, shared memory.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fcntl_getfl, fstat, linkat, mkdirat, mknodat, open, openat, stat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::mounts::{attach, clone_tree, open_in};
use crate::failure::{Failure, StepContext};
use crate::kernel::sys;
use crate::spec::Seed;

/// Devices that every program may expect, and that reveal nothing of the host.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Restrictions of the devices' mounts.
const LOCKED: u64 =
    MountAttrFlags::MOUNT_ATTR_RDONLY.union(MountAttrFlags::MOUNT_ATTR_NOSUID).union(MountAttrFlags::MOUNT_ATTR_NOEXEC).bits() as u64;

/// The pipe in place of the devices for random numbers, for a sandbox with a seed.
pub const RANDOM_PIPE: &str = "/dev/urandom";

/// The devices for random numbers.
const RANDOM: [&str; 2] = ["urandom", "random"];

/// The host's devices, as detached mounts with their names.
pub struct Sources(Vec<(&'static str, OwnedFd)>);

/// Opens the host's devices; with a seed, without those for random numbers.
pub fn open_sources(seed: Option<&Seed>) -> Result<Sources, Failure> {
    let one = |name: &'static str| {
        let device = clone_tree(CWD, Path::new("/dev").join(name)).during_this(|| format!("opening /dev/{name}"))?;
        Ok((name, device))
    };
    Ok(Sources(DEVICES.into_iter().filter(|name| !(seed.is_some() && RANDOM.contains(name))).map(one).collect::<Result<_, _>>()?))
}

/// Mounts `/dev`, which is created in the scratch tmpfs.
pub fn attach_dev(root: &OwnedFd, scratch: &OwnedFd, sources: Sources) -> Result<(), Failure> {
    let step = "mounting /dev";
    let dev = open_in(scratch.as_fd(), Path::new("dev")).during(step)?;
    let is_there = |wanted: &str| sources.0.iter().any(|(name, _)| *name == wanted);
    if !RANDOM.into_iter().any(is_there) {
        mknodat(&dev, RANDOM[0], FileType::Fifo, Mode::from_raw_mode(0o666), 0).during(step)?;
        linkat(&dev, RANDOM[0], &dev, RANDOM[1], AtFlags::empty()).during(step)?;
    }
    for (name, _) in &sources.0 {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&dev, *name, flags, Mode::from_raw_mode(0o666)).during(step)?;
    }
    for (target, name) in LINKS {
        symlinkat(target, &dev, name).during(step)?;
    }
    for name in ["pts", "shm"] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).during(step)?;
    }
    let tree = clone_tree(dev.as_fd(), "").during(step)?;
    attach(&tree, root, Path::new("/dev")).during(step)?;
    // From here on `tree` is the attached mount, so mounts on its entries appear in the guest.
    let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    for (name, device) in &sources.0 {
        // A read-only mount still allows writing to a device, but not changing its owner or mode. Only the host may do that; a program of
        // the host's root could otherwise do it as the owner.
        sys::mount_setattr(device.as_fd(), LOCKED).during_this(|| format!("closing /dev/{name}"))?;
        move_mount(device, "", &tree, *name, from_here).during_this(|| format!("mounting /dev/{name}"))?;
    }
    let shm = clone_tree(scratch.as_fd(), "shm").during("mounting /dev/shm")?;
    move_mount(&shm, "", &tree, "shm", from_here).during("mounting /dev/shm")?;
    let terminals = terminals()?;
    move_mount(&terminals, "", &tree, "pts", from_here).during("mounting /dev/pts")
}

/// Creates a new devpts instance, which has no terminal of the host.
fn terminals() -> Result<OwnedFd, Failure> {
    let step = "mounting /dev/pts";
    let context = fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC).during(step)?;
    fsconfig_set_string(&context, "ptmxmode", "0666").during(step)?;
    // The customary group `tty` (5) is not mapped in the sandbox, so only the owner has access to terminals.
    fsconfig_set_string(&context, "mode", "0600").during(step)?;
    fsconfig_create(&context).during(step)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).during(step)
}

/// Opens standard streams that are devices of the host again, in the sandbox's own `/dev`: a passed descriptor bypasses its mounts.
///
/// Call it inside the new root.
pub fn own_streams() -> Result<(), Failure> {
    let step = "opening standard streams";
    for (number, stream) in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].into_iter().enumerate() {
        let found = match fstat(stream) {
            Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice => found,
            _ => continue,
        };
        // A terminal is either the sandbox's own already or passed on purpose.
        for name in DEVICES.iter().filter(|name| **name != "tty") {
            let path = Path::new("/dev").join(name);
            if stat(&path).during(step)?.st_rdev != found.st_rdev {
                continue;
            }
            let access = fcntl_getfl(stream).during(step)? & (OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK);
            let own = open(&path, access | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).during(step)?;
            match number {
                0 => rustix::stdio::dup2_stdin(&own),
                1 => rustix::stdio::dup2_stdout(&own),
                _ => rustix::stdio::dup2_stderr(&own),
            }
            .during(step)?;
        }
    }
    Ok(())
}

/// Opens a new terminal of the sandbox, and returns its master side and the program's side.
///
/// Call it inside the new root, so that `ttyname` works there.
pub fn open_terminal() -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = "opening a terminal";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let host = open("/dev/pts/ptmx", flags, Mode::empty()).during(step)?;
    unlockpt(&host).during(step)?;
    let both = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let program = ioctl_tiocgptpeer(&host, both).during(step)?;
    Ok((host, program))
}
