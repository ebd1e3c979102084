//! The user and the privileges of a sandbox's processes.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, open};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_capabilities_secure_bits,
};

use crate::failure::{Failure, StepContext};
use crate::kernel::sys;
use crate::spec::Identity;

/// Capabilities of root in a build step with one id, within its own user namespace: access to the image's files, which maintainer scripts
/// expect.
///
/// Dropped: `CHOWN`, `SETUID` and `SETGID` (the filter handles those calls), `SETFCAP` (a layer stores no file capabilities; scripts fall
/// back to set-user-id), and `MKNOD`. Also dropped: all with access to the kernel, as `SYS_ADMIN`, `SYS_PTRACE` and `NET_ADMIN`.
const STEP: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::FOWNER).union(CapabilitySet::FSETID).union(CapabilitySet::NET_BIND_SERVICE);

/// Capabilities of root in a build step with a range of ids: in addition those for changing owners, users and file capabilities, and for
/// signals to processes of other users.
const STEP_IN_RANGE: CapabilitySet = STEP
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

/// Capabilities of PID 1 of such a step, which also answers calls of other users' processes.
const KEEPER: CapabilitySet = STEP_IN_RANGE.union(CapabilitySet::SYS_PTRACE);

/// Capabilities of PID 1, which also resolves the descriptors and directories of a script's processes.
const RECORDER: CapabilitySet = STEP.union(CapabilitySet::SYS_PTRACE);

/// Upper limit for capability numbers; the kernel reports the actual end.
const CAPABILITIES: u32 = 64;

/// Maps the caller's ids into the new user namespace. PID 1 does it from the inside, so no process has to wait for another.
pub fn map(inside: (u32, u32), uid: u32, gid: u32) -> Result<(), Failure> {
    let (inner_uid, inner_gid) = inside;
    fs::write("/proc/self/setgroups", "deny").during("giving up supplementary groups")?;
    fs::write("/proc/self/uid_map", format!("{inner_uid} {uid} 1")).during("mapping the user")?;
    fs::write("/proc/self/gid_map", format!("{inner_gid} {gid} 1")).during("mapping the group")
}

/// Drops capabilities permanently: all of them for the caller's identity.
pub fn drop_capabilities(identity: Identity) -> Result<(), Failure> {
    match identity {
        Identity::Caller | Identity::Machine => reduce_to(CapabilitySet::empty()),
        Identity::Root => reduce_to(STEP),
    }
}

/// Drops the capabilities that a build step with a range of ids does not need.
pub fn drop_capabilities_in_range() -> Result<(), Failure> {
    reduce_to(STEP_IN_RANGE)
}

/// Drops the capabilities that PID 1 of such a step does not need.
pub fn drop_capabilities_of_keeper() -> Result<(), Failure> {
    reduce_to(KEEPER)
}

/// Drops the capabilities that PID 1 does not need for recording owners.
pub fn drop_capabilities_of_recorder() -> Result<(), Failure> {
    reduce_to(RECORDER)
}

/// Drops the capabilities that the network agent does not need. It listens on low ports and attaches filters, which newer kernels allow
/// only with `NET_ADMIN`, in a network namespace without a route outside. It executes no program, so its bounding set has no effect.
pub fn drop_capabilities_of_agent() -> Result<(), Failure> {
    keep(CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::NET_ADMIN))
}

/// Drops the capabilities of PID 1 of a run permanently, except those of the network agent that it may start: no program gets them by an
/// exec. The program gives them up before its exec, and PID 1 when the agent runs, with [`drop_capabilities_of_agent_starter`].
pub fn drop_capabilities_before_agent() -> Result<(), Failure> {
    bound_by(CapabilitySet::empty())?;
    drop_capabilities_of_agent()
}

/// Drops the capabilities that were kept for the network agent.
pub fn drop_capabilities_of_agent_starter() -> Result<(), Failure> {
    keep(CapabilitySet::empty())
}

fn reduce_to(kept: CapabilitySet) -> Result<(), Failure> {
    bound_by(kept)?;
    keep(kept)
}

/// Limits the capabilities that an exec can give.
fn bound_by(kept: CapabilitySet) -> Result<(), Failure> {
    let step = "giving up capabilities";
    for number in 0..CAPABILITIES {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).during(step),
        }
    }
    if kept.is_empty() {
        // User 0 gets capabilities at exec by default.
        let no_root = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(no_root).during(step)?;
    }
    Ok(())
}

/// Gives up all other capabilities of this process.
fn keep(kept: CapabilitySet) -> Result<(), Failure> {
    let step = "giving up capabilities";
    clear_ambient_capability_set().during(step)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).during(step)
}

// Landlock's file rights, and the versions that introduced them.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const REFER_SINCE: u32 = 2;
const TRUNCATE_SINCE: u32 = 3;
// Landlock's scopes: abstract Unix sockets, signals.
const SCOPES: u64 = 0b11;
const SCOPES_SINCE: u32 = 6;

/// Applies Landlock restrictions that namespaces may not cover, as far as the kernel supports them.
///
/// Signals and abstract sockets stay inside; the namespaces ensure this, too. The view contains only granted files, so file rules are
/// needed in one case: the host passes a regular file as a standard stream. The guest could open it again through `/proc/self/fd` with more
/// access than the descriptor has, and truncate a file that it may only read.
pub fn confine() -> Result<(), Failure> {
    let step = "confining with landlock";
    let Some(version) = sys::landlock_version() else { return Ok(()) };
    let mut ruleset = sys::Ruleset::default();
    if version >= SCOPES_SINCE {
        ruleset.scoped = SCOPES;
    }
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let files: Vec<(BorrowedFd<'_>, u64)> = streams
        .into_iter()
        .filter(|stream| fstat(stream).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile))
        .map(|stream| (stream, rights(&stream)))
        .collect();
    let mut rules = Vec::new();
    let root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during(step)?;
    // Before version 2 a ruleset for files would forbid renames between directories altogether.
    if !files.is_empty() && version >= REFER_SINCE {
        ruleset.files = READ_FILE | WRITE_FILE | REFER;
        if version >= TRUNCATE_SINCE {
            ruleset.files |= TRUNCATE;
        }
        rules.push((root.as_fd(), ruleset.files));
        let governed = ruleset.files;
        rules.extend(files.into_iter().map(|(file, rights)| (file, rights & governed)));
    }
    if ruleset.scoped == 0 && ruleset.files == 0 {
        return Ok(());
    }
    sys::landlock(&ruleset, &rules).during(step)
}

/// Returns the rights of a stream's own access mode, so that opening `/dev/stdout` again still works.
fn rights(stream: &BorrowedFd<'_>) -> u64 {
    match fcntl_getfl(stream).map(|flags| flags & OFlags::ACCMODE) {
        Ok(mode) if mode == OFlags::RDONLY => READ_FILE,
        Ok(mode) if mode == OFlags::WRONLY => WRITE_FILE | TRUNCATE,
        Ok(_) => READ_FILE | WRITE_FILE | TRUNCATE,
        Err(_) => 0,
    }
}
