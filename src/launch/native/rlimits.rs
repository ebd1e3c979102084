//! Resource limits of a sandbox that work without a cgroup.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{Failure, StepContext};
use crate::spec::Limits;

/// The first kernel with a `pid_max` per pid namespace. Before it, a sandbox of the host's root would change the host's value, so the
/// version is checked first.
const OWN_PID_MAX_SINCE: (u32, u32) = (6, 14);

/// The number of PIDs that the kernel reserves; it refuses a smaller `pid_max`.
const RESERVED_PIDS: u64 = 301;

/// Limits the open files and core dumps of this process and its descendants.
pub fn apply(limits: &Limits) -> Result<(), Failure> {
    lower(Resource::Core, 0)?;
    if let Some(files) = limits.open_files {
        lower(Resource::Nofile, files)?;
    }
    Ok(())
}

/// Limits the memory and tasks of this process and its descendants, for a sandbox without a cgroup.
pub fn apply_without_cgroup(limits: &Limits) -> Result<(), Failure> {
    if let Some(bytes) = limits.memory_bytes {
        // Not the address space: language runtimes reserve far more of it than they use.
        lower(Resource::Data, bytes)?;
    }
    if let Some(tasks) = limits.tasks {
        // Counted per user in this user namespace; the host's root is exempt.
        lower(Resource::Nproc, tasks)?;
    }
    Ok(())
}

/// QEMU's address space in addition to the guest's memory: libraries and unused reservations of the allocator.
const RESERVED_BYTES: u64 = 2 << 30;

/// Limits the address space of QEMU. Other programs reserve too much for such a limit. It also counts shared anonymous memory, which the
/// other limits do not.
pub fn bound_address_space(limits: &Limits) -> Result<(), Failure> {
    limits.memory_bytes.map_or(Ok(()), |bytes| lower(Resource::As, bytes.saturating_add(RESERVED_BYTES)))
}

/// Limits the PIDs of this pid namespace, which also works for the host's root.
///
/// Call it while the sandbox's own `/proc/sys` is still writable. PIDs are reused only after the limit is reached, so this limits the
/// number of live processes.
pub fn bound_processes(limits: &Limits) -> Result<(), Failure> {
    let Some(tasks) = limits.tasks else { return Ok(()) };
    if kernel() < OWN_PID_MAX_SINCE {
        return Ok(());
    }
    let bound = (tasks + 2).max(RESERVED_PIDS);
    match fs::write("/proc/sys/kernel/pid_max", bound.to_string()) {
        // The kernel may forbid it (then the other limits apply), or support fewer PIDs than requested.
        Err(error) if [Some(libc::EACCES), Some(libc::EPERM), Some(libc::EINVAL), Some(libc::EROFS)].contains(&error.raw_os_error()) => {
            Ok(())
        }
        result => result.during("limiting the number of processes"),
    }
}

/// Returns the running kernel's version.
pub fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    parse(&name.release().to_string_lossy())
}

fn parse(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Lowers a limit; never raises one.
fn lower(resource: Resource, to: u64) -> Result<(), Failure> {
    let now = getrlimit(resource);
    let hard = now.maximum.map_or(to, |maximum| maximum.min(to));
    let new = Rlimit { current: Some(hard), maximum: Some(hard) };
    setrlimit(resource, new).during_this(|| format!("limiting {resource:?}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn kernel_versions() {
        for (release, expect) in [("6.18.44-x", (6, 18)), ("5.4", (5, 4)), ("6.1.0-23-amd64", (6, 1)), ("", (0, 0)), ("x", (0, 0))] {
            assert_eq!(super::parse(release), expect, "{release}");
        }
    }
}
