//! What a machine of Apple's Virtualization framework is made of, from a launch spec: pure, data in, data out.
//!
//! The counterpart of the command line in [`super::machine`], for a host whose own program is the hypervisor. There is no
//! sandbox around it: Apple runs each machine in a process of its own. So a share that is read-only is so by the
//! framework, and the paths in a writable one that may only be read are kept by the sandbox inside alone.

use std::path::PathBuf;

use super::machine::{self, Inside, LOWER_TAG, PORT, Shares, Sharing, tag};
use crate::launch::spec::{Access, Machine, Spec};

/// What the guest's kernel is told: to say nothing until it dies, and then to start anew, which is noticed; to trust the
/// processor's random numbers. There is no console before the one of virtio.
const COMMAND_LINE: &str = "console=hvc0 quiet loglevel=1 panic=-1 random.trust_cpu=on";

/// A machine, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The kernel; for an ARM processor it must be unpacked.
    pub kernel: PathBuf,
    /// What it is told.
    pub command_line: &'static str,
    /// Processors, of which the framework gives as many as it can.
    pub cpus: u32,
    /// Memory, in whole MiB.
    pub memory_bytes: u64,
    /// The one disk, which is read-only.
    pub disk: Option<PathBuf>,
    /// What of the host is shared.
    pub shares: Vec<Share>,
    /// The name of the port that carries frames.
    pub port: &'static str,
}

/// One shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// By which the machine mounts it.
    pub tag: String,
    /// What is in it.
    pub holds: Holds,
    /// Whether it can be written.
    pub access: Access,
}

/// What is in a shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// What is in this one.
    Directory(PathBuf),
    /// One file of the host: only a directory can be shared, so it lies in one that is made for it.
    File(PathBuf),
    /// These directories, numbered.
    Numbered(Vec<PathBuf>),
}

/// Makes a machine of a spec, and what runs inside.
pub fn make(spec: &Spec, machine: &Machine) -> (Configuration, Inside) {
    let shares = Shares::of(spec);
    let memory_bytes = machine::memory(spec, machine);
    let lower = match machine.disk {
        Some(_) => None,
        None => Some(Share { tag: LOWER_TAG.to_owned(), holds: Holds::Numbered(spec.root.lower.clone()), access: Access::ReadOnly }),
    };
    let shared = shares.hosts.iter().enumerate().map(|(number, share)| Share {
        tag: tag(number),
        holds: match share.file {
            Some(_) => Holds::File(share.host.clone()),
            None => Holds::Directory(share.host.clone()),
        },
        access: share.access,
    });
    let configuration = Configuration {
        kernel: machine.kernel.clone(),
        command_line: COMMAND_LINE,
        cpus: machine.cpus,
        memory_bytes,
        disk: machine.disk.clone(),
        shares: lower.into_iter().chain(shared).collect(),
        port: PORT,
    };
    let inner = machine::inner(spec, machine, &shares, memory_bytes);
    (configuration, Inside { spec: inner, shares: shares.hosts.len(), sharing: Sharing::Virtiofs })
}
