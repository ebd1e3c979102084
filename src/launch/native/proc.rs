//! A new `/proc` with the sandbox's own processes, and with the entries for the host masked.
//!
//! If the caller is the host's root, the sandbox's user owns everything in `/proc`, and file permissions alone would let it write
//! `/proc/sys/kernel/core_pattern`. So writable parts are mounted read-only, and entries with information about the host are hidden.
//! Without capabilities the guest cannot undo a mount.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsmount, fsopen, mount_bind, move_mount};

use super::mounts::{attach, clone_tree};
use crate::failure::{Failure, StepContext};
use crate::kernel::sys;
use crate::spec::Seed;
use silo_store::digest::Hasher;

/// Entries readable by all users, hidden with `/dev/null`.
const HIDDEN_FILES: [&str; 14] = [
    "kallsyms",      // symbols of the running kernel
    "keys",          // keyrings
    "key-users",     // owners of keys
    "timer_stats",   // timers of the host's processes, on older kernels
    "latency_stats", // wait locations of the host's processes
    "sched_debug",   // every process of the host, on older kernels
    "interrupts",    // its timing reveals key strokes
    "softirqs",      // the same
    "cmdline",       // the host's boot options: names of disks, sometimes secrets
    "bootconfig",    // more boot options
    "config.gz",     // the kernel's configuration, which shows its attack surface
    "modules",       // the host's loaded drivers
    "partitions",    // the host's disks
    "mdstat",        // the same
];

/// Entries readable only by the host's root, also hidden if the caller is root.
const HIDDEN_FROM_ROOT: [&str; 9] = [
    "kcore",         // the host's physical memory
    "kmsg",          // the host's kernel log
    "sysrq-trigger", // reboots the host
    "timer_list",    // timers of the host's processes
    "kpagecount",    // the host's physical pages, and the next two
    "kpageflags",
    "kpagecgroup",
    "vmallocinfo", // addresses of the running kernel
    "slabinfo",    // a side channel into its memory
];

/// Directories hidden with an empty directory.
const HIDDEN_DIRS: [&str; 4] = ["acpi", "asound", "driver", "scsi"];

/// Directories mounted read-only, because some entry in them changes the host.
const READ_ONLY: [&str; 5] = ["sys", "irq", "bus", "fs", "mtrr"];

/// Place of a file until it is mounted.
const FIXED: &str = "/dev/.fixed";

/// An empty read-only directory for each of [`HIDDEN_DIRS`] that exists.
pub struct EmptyDirs(Vec<(&'static str, OwnedFd)>);

/// Mounts `/proc`.
///
/// The kernel allows it only while the host's own, unmasked `/proc` is still visible.
pub fn attach_proc(root: &OwnedFd, scratch: &OwnedFd) -> Result<EmptyDirs, Failure> {
    let step = "mounting /proc";
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).during(step)?;
    fsconfig_create(&context).during(step)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let proc = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).during(step)?;
    let mut no_files = Vec::new();
    for name in HIDDEN_DIRS {
        if rustix::fs::accessat(&proc, name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty()).is_ok() {
            let none = clone_tree(scratch.as_fd(), "none").during(step)?;
            read_only(&none).during(step)?;
            no_files.push((name, none));
        }
    }
    attach(&proc, root, Path::new("/proc")).during(step)?;
    Ok(EmptyDirs(no_files))
}

/// Masks the entries; call it inside the new root.
pub fn mask(no_files: EmptyDirs, caller: u32) -> Result<(), Failure> {
    let at = |name: &str| Path::new("/proc").join(name);
    let from_root = if caller == 0 { &HIDDEN_FROM_ROOT[..] } else { &[] };
    for name in HIDDEN_FILES.iter().chain(from_root) {
        match mount_bind("/dev/null", at(name)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).during_this(|| format!("hiding /proc/{name}")),
        }
    }
    for (name, none) in no_files.0 {
        let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&none, "", rustix::fs::CWD, at(name), from_here).during_this(|| format!("hiding /proc/{name}"))?;
    }
    for name in READ_ONLY {
        let step = || format!("making /proc/{name} read-only");
        match clone_tree(rustix::fs::CWD, at(name)) {
            Ok(tree) => {
                read_only(&tree).during_this(step)?;
                let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(&tree, "", rustix::fs::CWD, at(name), from_here).during_this(step)?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error).during_this(step),
        }
    }
    Ok(())
}

/// Gives the processes that start from now on larger ids; call it before [`mask`]. A kernel without this setting, or a limit on the
/// number of tasks, keeps small ids.
pub fn start_pids_after(last: u32) -> Result<(), Failure> {
    match fs::write("/proc/sys/kernel/ns_last_pid", last.to_string()) {
        Err(error) if [Some(libc::ENOENT), Some(libc::EPERM), Some(libc::EACCES), Some(libc::EINVAL)].contains(&error.raw_os_error()) => {
            Ok(())
        }
        written => written.during("setting the last process id"),
    }
}

/// Hides the number of processors and random ids, for a sandbox with a seed; call it after [`mask`]. Without a seed, it hides only the number
/// of processors, if another one is to be visible.
pub fn fix(seed: Option<&Seed>, processors: Option<u32>) -> Result<(), Failure> {
    let count = match (seed, processors) {
        (None, None) => return Ok(()),
        (_, count) => count.unwrap_or(1),
    };
    let lines = |line: &dyn Fn(u32) -> String| (0..count).map(line).collect::<String>();
    let stat = format!(
        "cpu  0 0 0 0 0 0 0 0 0 0\n{}intr 0\nctxt 0\nbtime 0\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n",
        lines(&|number| format!("cpu{number} 0 0 0 0 0 0 0 0 0 0\n"))
    );
    let mut fixed = vec![("stat", stat), ("cpuinfo", lines(&|number| format!("processor\t: {number}\n\n")))];
    if let Some(seed) = seed {
        fixed.extend([
            ("uptime", "0.00 0.00\n".to_owned()),
            ("loadavg", "0.00 0.00 0.00 1/1 1\n".to_owned()),
            ("sys/kernel/random/boot_id", uuid(seed, "boot")),
            ("sys/kernel/random/uuid", uuid(seed, "uuid")),
        ]);
    }
    for (name, text) in fixed {
        let step = || format!("fixing /proc/{name}");
        fs::write(FIXED, text).during_this(step)?;
        let tree = clone_tree(rustix::fs::CWD, FIXED).during_this(step)?;
        read_only(&tree).during_this(step)?;
        let from_here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", rustix::fs::CWD, Path::new("/proc").join(name), from_here).during_this(step)?;
        // The mount keeps the file.
        fs::remove_file(FIXED).during_this(step)?;
    }
    Ok(())
}

/// Returns a random UUID (version 4) of a seed.
fn uuid(seed: &Seed, name: &str) -> String {
    let mut hasher = Hasher::new();
    hasher.update(&seed.0);
    hasher.update(name.as_bytes());
    let digest = hasher.finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}\n", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn read_only(tree: &OwnedFd) -> std::io::Result<()> {
    sys::mount_setattr(tree.as_fd(), u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()))
}
