//! Builds the configuration of a VM for Apple's Virtualization framework from a launch spec. Pure: data in, data out.
//!
//! This is the counterpart of the command line in [`super::vm_spec`], for a host with a built-in hypervisor. There is no sandbox around the
//! VM: Apple runs each VM in a process of its own. So the framework enforces read-only shares, and only the sandbox inside protects
//! read-only paths in writable shares.

use std::path::PathBuf;

use super::guest_paths::{LOWER_TAG, PORT};
use super::shared_dirs::{SharedDirs, tag};
use super::vm_spec::{self, GuestJob, Sharing};
use crate::spec::{Access, Spec, VmFiles};

/// The kernel command line. The kernel prints nothing until a panic, and then reboots, which the framework reports as the end. It trusts
/// the processor's random number generator. The virtio console is the first one.
const COMMAND_LINE: &str = "console=hvc0 quiet loglevel=1 panic=-1 random.trust_cpu=on";

/// The configuration of a VM, as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The kernel; on ARM it must be uncompressed.
    pub kernel: PathBuf,
    /// The kernel command line.
    pub command_line: &'static str,
    /// Number of processors, limited to the framework's maximum.
    pub cpus: u32,
    /// Memory, in whole MiB.
    pub memory_bytes: u64,
    /// The read-only disk, if any.
    pub disk: Option<PathBuf>,
    /// The host's shares.
    pub shares: Vec<Share>,
    /// The name of the port for frames.
    pub port: &'static str,
}

/// A shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The mount tag.
    pub tag: String,
    /// The content.
    pub holds: Holds,
    /// Read-only or writable.
    pub access: Access,
}

/// The content of a shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A host directory.
    Directory(PathBuf),
    /// A single host file. Only directories can be shared, so it gets a directory of its own.
    File(PathBuf),
    /// These host directories, under their numbers.
    Numbered(Vec<PathBuf>),
}

/// Builds the configuration of a VM, and the data for its job.
pub fn make(spec: &Spec, machine: &VmFiles) -> (Configuration, GuestJob) {
    let shares = SharedDirs::of(spec);
    let memory_bytes = vm_spec::memory(spec, machine);
    let lower = match machine.disk {
        Some(_) => None,
        None => Some(Share { tag: LOWER_TAG.to_owned(), holds: Holds::Numbered(spec.root.lower.clone()), access: Access::ReadOnly }),
    };
    let shared = shares.hosts.iter().enumerate().map(|(number, share)| Share {
        tag: tag(number),
        holds: match share.file {
            Some(_) => Holds::File(share.host.path().to_owned()),
            None => Holds::Directory(share.host.path().to_owned()),
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
    let inner = vm_spec::inner(spec, machine, &shares, memory_bytes);
    (configuration, GuestJob { spec: inner, shares: shares.hosts.len(), sharing: Sharing::Virtiofs, memory_bytes })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{Conditions, Identity, Limits, MachineTime, Mount, Root, Stdio, Upper};

    fn spec() -> Spec {
        let mount = |host: &str, guest: &str, access| Mount { host: host.into(), guest: guest.into(), access };
        Spec {
            root: Root {
                lower: vec!["/h/images/a/root".into(), "/h/images/b/root".into()],
                upper: Upper::Ephemeral { size_bytes: 4 << 30 },
            },
            mounts: vec![
                mount("/Users/me/p", "/Users/me/p", Access::ReadWrite),
                mount("/Users/me/p", "/workspace", Access::ReadWrite),
                mount("/Volumes/shared", "/srv/shared", Access::ReadOnly),
                mount("/etc/hosts", "/etc/name", Access::ReadOnly),
            ],
            dirs: vec![],
            files: vec![],
            read_only: vec!["/Users/me/p/.git/hooks".into()],
            overlays: Vec::new(),
            hidden: Vec::new(),
            removable: Vec::new(),
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            cwd: "/Users/me/p".into(),
            hostname: "silo".to_owned(),
            identity: Identity::Caller,
            abi: crate::spec::Abi::Native,
            stdio: Stdio::Auto,
            limits: Limits { memory_bytes: Some(1 << 30), ..Limits::default() },
            network: None,
            machine: None,
            owners: Vec::new(),
            owners_at: None,
            seed: None,
            fixed_time: None,
            conditions: Conditions::default(),
        }
    }

    fn machine(disk: Option<&str>) -> VmFiles {
        VmFiles {
            arch: silo_base::system::Arch::Arm64,
            root: "/h/vm".into(),
            kernel: "/h/vmlinux".into(),
            initial: "/h/initial".into(),
            disk: disk.map(Into::into),
            memory_bytes: 2 << 30,
            cpus: 2,
            time: MachineTime::Host,
            snapshots: None,
            warm_up: Vec::new(),
        }
    }

    #[test]
    fn the_machine_is_the_golden_one() {
        for (disk, golden) in [
            (Some("/h/disk"), include_str!("../../../tests/golden/vz/disk.txt")),
            (None, include_str!("../../../tests/golden/vz/layers.txt")),
        ] {
            let (configuration, _) = make(&spec(), &machine(disk));
            let text = format!("{configuration:#?}\n");
            assert_eq!(text, golden, "{text}");
        }
    }

    #[test]
    fn what_runs_inside_finds_its_shares_and_keeps_its_rules() {
        let (configuration, inside) = make(&spec(), &machine(Some("/h/disk")));
        assert_eq!((inside.shares, inside.sharing), (3, Sharing::Virtiofs));
        let hosts: Vec<String> = inside.spec.mounts.iter().map(|mount| mount.host.path().display().to_string()).collect();
        assert_eq!(hosts, ["/share/0", "/share/0", "/share/1", "/share/2/hosts"]);
        assert_eq!(inside.spec.read_only, spec().read_only, "nothing outside keeps them");
        // The framework's limits.
        assert!(configuration.memory_bytes.is_multiple_of(1 << 20));
        assert!(configuration.shares.iter().all(|share| share.tag.len() < 36));
    }
}
