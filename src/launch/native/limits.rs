//! What a sandbox may use up, as far as its own processes can be made to obey without a cgroup.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::launch::host::failure::{During, Failure};
use crate::launch::spec::Limits;

/// From this kernel on `pid_max` belongs to the pid namespace. Before, it was the host's, and a
/// sandbox of the host's root would have changed it for everybody: so the number is checked, not tried.
const OWN_PID_MAX_SINCE: (u32, u32) = (6, 14);

/// The kernel keeps this many process ids for itself, and refuses a smaller `pid_max`.
const RESERVED_PIDS: u64 = 301;

/// Limits this process and its descendants; `by_cgroup` says that memory and tasks are taken care of.
pub fn apply(limits: &Limits, by_cgroup: bool) -> Result<(), Failure> {
    lower(Resource::Core, 0)?;
    if let Some(files) = limits.open_files {
        lower(Resource::Nofile, files)?;
    }
    if by_cgroup {
        return Ok(());
    }
    if let Some(bytes) = limits.memory_bytes {
        // Not the address space: runtimes reserve far more of it than they ever use.
        lower(Resource::Data, bytes)?;
    }
    if let Some(tasks) = limits.tasks {
        // Counted per user of this user namespace; the host's root is exempt from it.
        lower(Resource::Nproc, tasks)?;
    }
    Ok(())
}

/// Address space of QEMU besides its memory: libraries, and what the allocator reserves and does not use.
const RESERVED_BYTES: u64 = 2 << 30;

/// Bounds the address space of what runs a machine. Other programs reserve too much for that; QEMU's is known. It bounds
/// memory that is shared and belongs to no file as well, which the other limits do not count.
pub fn bound_address_space(limits: &Limits) -> Result<(), Failure> {
    limits.memory_bytes.map_or(Ok(()), |bytes| lower(Resource::As, bytes.saturating_add(RESERVED_BYTES)))
}

/// Bounds the process ids of this pid namespace, which holds for the host's root, too.
///
/// To be called while the sandbox's own `/proc/sys` can still be written. Ids are used anew only
/// after the bound is reached, so this limits how many processes live at once.
pub fn bound_processes(limits: &Limits) -> Result<(), Failure> {
    let Some(tasks) = limits.tasks else { return Ok(()) };
    if kernel() < OWN_PID_MAX_SINCE {
        return Ok(());
    }
    let bound = (tasks + 2).max(RESERVED_PIDS);
    match fs::write("/proc/sys/kernel/pid_max", bound.to_string()) {
        // The kernel may forbid it (then the other limits hold), or have fewer ids than asked for.
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
