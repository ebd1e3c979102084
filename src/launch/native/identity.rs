//! Who the sandbox's processes are, and what they may not do.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, open};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_capabilities_secure_bits,
};

use super::sys;
use crate::launch::host::failure::{During, Failure};
use crate::launch::spec::Identity;

/// What root keeps in a build step, within its own user namespace: the power over the image's files
/// that maintainer scripts count on. Not `CHOWN`, `SETUID`, `SETGID` (answered by the filter), not
/// `SETFCAP` (a layer has no file capabilities on disk; scripts fall back to set-user-id), not
/// `MKNOD`, and nothing that reaches the kernel: no `SYS_ADMIN`, `SYS_PTRACE`, `NET_ADMIN`.
const STEP: CapabilitySet =
    CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::FOWNER).union(CapabilitySet::FSETID).union(CapabilitySet::NET_BIND_SERVICE);

/// What PID 1 needs besides, to look up what a script's descriptor or directory is.
const RECORDER: CapabilitySet = STEP.union(CapabilitySet::SYS_PTRACE);

/// The most capabilities there can be; the kernel says where they really end.
const CAPABILITIES: u32 = 64;

/// Maps the caller's ids into the new user namespace; from the inside, so nobody has to wait.
pub fn map(inside: (u32, u32), uid: u32, gid: u32) -> Result<(), Failure> {
    let (inner_uid, inner_gid) = inside;
    fs::write("/proc/self/setgroups", "deny").during("giving up supplementary groups")?;
    fs::write("/proc/self/uid_map", format!("{inner_uid} {uid} 1")).during("mapping the user")?;
    fs::write("/proc/self/gid_map", format!("{inner_gid} {gid} 1")).during("mapping the group")
}

/// Gives up capabilities for good: of the caller's identity all of them.
pub fn drop_capabilities(identity: Identity) -> Result<(), Failure> {
    match identity {
        Identity::Caller | Identity::Machine => reduce_to(CapabilitySet::empty()),
        Identity::Root => reduce_to(STEP),
    }
}

/// Gives up what PID 1 does not need to record owners.
pub fn drop_capabilities_of_recorder() -> Result<(), Failure> {
    reduce_to(RECORDER)
}

/// Gives up what the network's agent does not need to listen at low ports, with filters (which newer kernels let no
/// one else attach), in a network namespace that leads nowhere.
pub fn drop_capabilities_of_agent() -> Result<(), Failure> {
    reduce_to(CapabilitySet::NET_BIND_SERVICE.union(CapabilitySet::NET_ADMIN))
}

fn reduce_to(kept: CapabilitySet) -> Result<(), Failure> {
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
        // User 0 gets capabilities at exec unless told otherwise.
        let no_root = CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
        set_capabilities_secure_bits(no_root).during(step)?;
    }
    clear_ambient_capability_set().during(step)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).during(step)
}

// Landlock's file rights, and the version from which each exists.
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const REFER_SINCE: u32 = 2;
const TRUNCATE_SINCE: u32 = 3;
// Its scopes: abstract Unix sockets, signals.
const SCOPES: u64 = 0b11;
const SCOPES_SINCE: u32 = 6;

/// Confines with Landlock what namespaces may leave open, as far as the kernel has it.
///
/// Signals and abstract sockets stay inside (the namespaces see to that, too). File rules are
/// needed in one case only, since the view is built from nothing: when the host hands down a
/// regular file as a standard stream. The guest could open it anew through `/proc/self/fd`, with
/// more rights than the descriptor has: truncate what was only to be read.
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

/// What a stream's own mode allows; opening `/dev/stdout` anew goes on working.
fn rights(stream: &BorrowedFd<'_>) -> u64 {
    match fcntl_getfl(stream).map(|flags| flags & OFlags::ACCMODE) {
        Ok(mode) if mode == OFlags::RDONLY => READ_FILE,
        Ok(mode) if mode == OFlags::WRONLY => WRITE_FILE | TRUNCATE,
        Ok(_) => READ_FILE | WRITE_FILE | TRUNCATE,
        Err(_) => 0,
    }
}
