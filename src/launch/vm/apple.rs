//! What a machine of Apple's Virtualization framework is made of, from a launch spec: pure, data in, data out.
//!
//! The counterpart of the command line in [`super::machine`], for a host whose own program is the hypervisor. There is no
//! sandbox around it: Apple runs each machine in a process of its own. So a share that is read-only is so by the
//! framework, and the paths in a writable one that may only be read are kept by the sandbox inside alone.

use std::path::PathBuf;

use super::machine::{self, Inside, LOWER_TAG, PORT, Sharing};
use super::shares::{Shares, tag};
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
    let inner = machine::inner(spec, machine, &shares, memory_bytes);
    (configuration, Inside { spec: inner, shares: shares.hosts.len(), sharing: Sharing::Virtiofs, memory_bytes })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::launch::spec::{Identity, Limits, Mount, Root, Stdio, Upper};

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
            argv: vec!["true".into()],
            env: BTreeMap::new(),
            cwd: "/Users/me/p".into(),
            hostname: "silo".to_owned(),
            identity: Identity::Caller,
            stdio: Stdio::Auto,
            limits: Limits { memory_bytes: Some(1 << 30), ..Limits::default() },
            network: None,
            machine: None,
        }
    }

    fn machine(disk: Option<&str>) -> Machine {
        Machine {
            root: "/h/vm".into(),
            kernel: "/h/vmlinux".into(),
            initial: "/h/initial".into(),
            disk: disk.map(Into::into),
            memory_bytes: 2 << 30,
            cpus: 2,
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
        // The framework's own bounds.
        assert!(configuration.memory_bytes.is_multiple_of(1 << 20));
        assert!(configuration.shares.iter().all(|share| share.tag.len() < 36));
    }
}
