//! Confines the broker's process: resource limits, no capabilities, read-only files, few system calls.
//!
//! The broker parses input from hostile programs and servers. A compromised broker can use the network but cannot open the user's files,
//! start a program, or access another process. The broker of a build step can also append to the one file that it opened before, up to a
//! limit, and read the record of the step.

use std::fs::canonicalize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_name, set_no_new_privs};

use super::broker_seccomp_rules;
use super::sys;
use crate::broker::BrokerFiles;
use crate::failure::{Failure, StepContext};

pub use super::broker_seccomp_rules::Agent;

/// Most bytes of writable memory: several times the broker's memory budget, with the threads for name lookups.
const DATA_BYTES: u64 = 256 << 20;

// Landlock's file rights of its first version: execute, write, read, list, remove and create.
const ALL_FILES: u64 = (1 << 13) - 1;
const READ: u64 = (1 << 2) | (1 << 3);

/// Paths that the C library reads for name lookups: settings, the directories of their generators, and its own modules.
const READABLE: [&str; 9] = ["/etc", "/run", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/dev/null"];
/// Settings files that may be symlinks to other directories.
const SETTINGS: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf"];

/// Confines this process, a new child of `parent` with one thread, to a broker's operations.
pub fn broker(parent: Pid, agent: Agent, files: &BrokerFiles) -> Result<(), Failure> {
    let step = "confining the broker";
    set_parent_process_death_signal(Some(Signal::KILL)).during(step)?;
    if getppid() != Some(parent) {
        // The parent died before the death signal was set.
        sys::exit(0);
    }
    // The name is only informative.
    let _ = set_name(c"silo-broker");
    lower(Resource::Core, 0)?;
    lower(Resource::Data, DATA_BYTES)?;
    lower(Resource::Fsize, files.max_bytes)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during(step)?;
    set_no_new_privs(true).during(step)?;
    drop_capabilities(agent)?;
    landlock(files.readable.as_deref())?;
    sys::filter(&broker_seccomp_rules::filter(agent)).during("filtering the broker's system calls")
}

/// Drops capabilities. Root's broker keeps the one that is needed to connect to a user's ssh agent, if it uses one.
fn drop_capabilities(agent: Agent) -> Result<(), Failure> {
    let step = "giving up the broker's capabilities";
    let kept = match agent {
        Agent::None => CapabilitySet::empty(),
        Agent::Asked => capabilities(None).during(step)?.permitted.intersection(CapabilitySet::DAC_OVERRIDE),
    };
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() }).during(step)
}

/// Allows reading the files for name lookups and those of a record, and no other file access, if the kernel has Landlock.
fn landlock(record: Option<&Path>) -> Result<(), Failure> {
    if sys::landlock_version().is_none() {
        return Ok(());
    }
    let linked = SETTINGS.into_iter().filter_map(|path| canonicalize(path).ok()?.parent().map(Path::to_path_buf));
    // A symlink to a file in the root directory would allow everything.
    let places = READABLE.into_iter().map(PathBuf::from).chain(linked.filter(|place| place.parent().is_some()));
    let places = places.chain(record.map(Path::to_owned));
    let open = |place: PathBuf| Some((open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?, place.is_dir()));
    let places: Vec<(OwnedFd, bool)> = places.filter_map(open).collect();
    let rights = |is_dir: bool| if is_dir { READ } else { READ & !(1 << 3) };
    let rules: Vec<(BorrowedFd<'_>, u64)> = places.iter().map(|(place, is_dir)| (place.as_fd(), rights(*is_dir))).collect();
    let ruleset = sys::Ruleset { files: ALL_FILES, ..sys::Ruleset::default() };
    sys::landlock(&ruleset, &rules).during("confining the broker with landlock")
}

/// Lowers a limit; never raises one.
fn lower(resource: Resource, to: u64) -> Result<(), Failure> {
    let hard = getrlimit(resource).maximum.map_or(to, |maximum| maximum.min(to));
    setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) }).during_this(|| format!("limiting the broker's {resource:?}"))
}
