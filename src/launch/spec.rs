//! The launch spec: everything one launch needs, as data.
//!
//! Pure: nothing here touches the system. A spec can be sent to another process as JSON ([`Spec::to_json`], [`Spec::from_json`]). Paths,
//! arguments and variables keep their exact bytes, also empty ones and ones that are not UTF-8.

mod text;

mod abi;
mod network_files;
mod step;
mod vm_files;

pub mod host_path;
pub mod recording;
pub mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use crate::broker::upstream_proxy::Proxies;
use serde::{Deserialize, Serialize};
use silo_base::grant::{HostGrant, Policy, Port};

use super::error::Error;
use host_path::HostPath;
use recording::Recording;
use secrets::Secrets;

/// Name of the marker directory in an overlay's work directory; it exists if the overlay could not be mounted.
pub const UNLAYERED: &str = "read-only";

/// One program to run in one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The root file system.
    pub root: Root,
    /// Host files and directories to mount, in order (an outer one before an inner one).
    pub mounts: Vec<Mount>,
    /// Directories that must exist before the start.
    pub dirs: Vec<Dir>,
    /// Files written before the start; they hide the image's files of the same path.
    pub files: Vec<File>,
    /// Guest paths inside writable mounts that are mounted read-only.
    ///
    /// Missing paths are skipped. Every directory between the mount and such a path is pinned: it cannot be renamed or removed inside.
    /// Otherwise a guest could move `.git` away and make another one with its own hooks. A host directory that is mounted at two places
    /// needs its paths listed for both.
    #[serde(with = "text::list")]
    pub read_only: Vec<PathBuf>,
    /// Directories of mounts that the program sees through an overlay.
    #[serde(default)]
    pub overlays: Vec<Overlay>,
    /// Guest paths inside mounts that appear empty in the sandbox. Missing paths are skipped.
    #[serde(with = "text::list", default)]
    pub hidden: Vec<PathBuf>,
    /// Guest paths of mounted directories that the program may remove and create again, with [`Identity::Caller`]. The host directories
    /// below the mounts do not change.
    #[serde(with = "text::list", default)]
    pub removable: Vec<PathBuf>,
    /// The program and its arguments; a program without a slash is looked up in the `PATH` of `env`.
    #[serde(with = "text::list")]
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    #[serde(with = "text::map")]
    pub env: BTreeMap<OsString, OsString>,
    /// The working directory, as a guest path.
    #[serde(with = "text::one")]
    pub cwd: PathBuf,
    /// The sandbox's host name.
    pub hostname: String,
    /// The program's user.
    pub identity: Identity,
    /// The programs that may run.
    #[serde(default, skip_serializing_if = "Abi::is_native")]
    pub abi: Abi,
    /// The standard streams.
    pub stdio: Stdio,
    /// The resource limits.
    pub limits: Limits,
    /// The network policy; without one there is no network and no broker.
    #[serde(default)]
    pub network: Option<Network>,
    /// The virtual machine to run in; without one the program runs under the host's own kernel.
    #[serde(default)]
    pub machine: Option<VmFiles>,
    /// The files of the root with an owner other than 0:0, or with capabilities, for [`Identity::Root`]. A directory comes before its
    /// content.
    #[serde(default)]
    pub owners: Vec<Owned>,
    /// A host path for the layer of these files, which later launches with the same root use again; without one each launch makes its own.
    /// Its parent exists and belongs to the caller. The files may belong to other ids ([`crate::reexec::reclaim`]).
    #[serde(with = "text::perhaps", default)]
    pub owners_at: Option<PathBuf>,
    /// The source of the program's random numbers, for [`Identity::Root`]; without one they are the kernel's.
    #[serde(default)]
    pub seed: Option<Seed>,
    /// The time at which the program's clock stands still, in seconds since 1970, for [`Identity::Root`]; without one the clock runs.
    #[serde(default)]
    pub fixed_time: Option<i64>,
    /// Conditions that a reproducibility check varies, for [`Identity::Root`].
    #[serde(default)]
    pub conditions: Conditions,
}

impl Spec {
    /// Returns a spec with a root and a program, and nothing else: no mounts, no environment, no network, no limits, the host's kernel.
    pub fn new(root: Root, argv: Vec<OsString>) -> Spec {
        Spec {
            root,
            mounts: Vec::new(),
            dirs: Vec::new(),
            files: Vec::new(),
            read_only: Vec::new(),
            overlays: Vec::new(),
            hidden: Vec::new(),
            removable: Vec::new(),
            argv,
            env: BTreeMap::new(),
            cwd: PathBuf::from("/"),
            hostname: "silo".to_owned(),
            identity: Identity::Root,
            abi: Abi::Native,
            stdio: Stdio::Auto,
            limits: Limits::default(),
            network: None,
            machine: None,
            owners: Vec::new(),
            owners_at: None,
            seed: None,
            fixed_time: None,
            conditions: Conditions::default(),
        }
    }
}

/// The root file system: read-only lower directories and a writable upper one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Host directories, the topmost first; usually only the tree composed for the image.
    #[serde(with = "text::list")]
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: Upper,
}

/// The writable layer of the root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Upper {
    /// In memory; discarded with the sandbox.
    Ephemeral {
        /// Limit in bytes.
        size_bytes: u64,
    },
    /// In a directory, to be captured afterwards.
    ///
    /// `dirs`, `files` and missing mount points do not show up there: they go into a separate layer below it. `/tmp` is in memory then.
    /// Writes are never synced: after a crash of the host the directory's content is not usable.
    Kept {
        /// The directory that receives the program's changes.
        #[serde(with = "text::one")]
        upper: PathBuf,
        /// A directory on the same file system, for the kernel's own use.
        #[serde(with = "text::one")]
        work: PathBuf,
    },
}

/// A host file or directory made visible inside, with all mounts below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The file or directory on the host.
    pub host: HostPath,
    /// The mount point. It is created if missing (on the host, if it is inside another writable mount).
    #[serde(with = "text::one")]
    pub guest: PathBuf,
    /// Read-only or writable.
    pub access: Access,
}

/// An overlay over a host directory: writes go to `upper`, and the host directory does not change.
///
/// An overlay on the guest path of a mount takes the place of that mount: later mounts are visible in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The host's directory.
    pub lower: HostPath,
    /// The directory that receives writes.
    #[serde(with = "text::one")]
    pub upper: PathBuf,
    /// A directory on the same file system, for the kernel's own use.
    #[serde(with = "text::one")]
    pub work: PathBuf,
    /// The guest paths; each is inside another mount, or is the guest path of a mount.
    #[serde(with = "text::list")]
    pub guests: Vec<PathBuf>,
    /// Reaction to a kernel that cannot mount the overlay.
    #[serde(default)]
    pub fallback: Fallback,
}

/// Reaction to an overlay that cannot be mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Mount the directory read-only, and create a directory named [`UNLAYERED`](crate::spec::UNLAYERED) in `work`.
    #[default]
    ReadOnly,
    /// Fail.
    Fail,
}

/// Access of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read only.
    #[serde(rename = "ro")]
    ReadOnly,
    /// Read and write.
    #[serde(rename = "rw")]
    ReadWrite,
}

/// A directory that must exist before the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dir {
    /// The guest path.
    #[serde(with = "text::one")]
    pub guest: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// The mode of a [`File`] that is a symlink: the kernel's file type, and all permissions.
pub const SYMLINK: u32 = 0o120_777;

/// A file written before the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The guest path.
    #[serde(with = "text::one")]
    pub guest: PathBuf,
    /// The file's content, or a symlink's target.
    #[serde(with = "text::one")]
    pub bytes: text::Bytes,
    /// Its permission bits, or [`SYMLINK`].
    pub mode: u32,
}

/// The program's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The caller, with the same uid: files it makes in a project belong to the caller.
    Caller,
    /// Root of its own user namespace, for build steps. Only useful with [`Upper::Kept`].
    ///
    /// The namespace has the ids 0 to 65535 if the system allows it. Owners and capabilities are real during the step; afterwards they are
    /// in the extended attributes `user.silo.owner` (`uid:gid`) and `user.silo.capability` of files and directories, and the upper
    /// directory has the attribute `user.silo.true`. Otherwise the namespace has one id. Then a change of ownership succeeds and is
    /// recorded in the same attribute, and a change of the own identity succeeds without effect.
    Root,
    /// The caller, mapped to uid 0, with no more privileges than [`Identity::Caller`]: for QEMU. So the caller's files belong to the VM's
    /// root, for any caller.
    Machine,
}

/// The standard streams of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stdio {
    /// A terminal of the sandbox's own if the caller's input and output are terminals; otherwise the caller's own streams.
    Auto,
    /// No input; output and errors are appended to this host file.
    Log {
        /// The file; created if missing.
        #[serde(with = "text::one")]
        path: PathBuf,
    },
}

/// Resource limits of a sandbox; `None` adds no limit to the caller's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of all processes together; without a delegated cgroup, the limit of each process.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// CPU time in thousandths of a processor (1500 is one and a half); only with a delegated cgroup.
    pub cpu_thousandths: Option<u64>,
    /// Seconds from the start of the program to its end.
    #[serde(default)]
    pub time_seconds: Option<u64>,
}

/// The network policy of a program, by host name: the program asks the DNS resolver inside, and Silo connects from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Grants, in the syntax of [`HostGrant`]. A host granted by its own name may have an address in the host's own network.
    #[serde(default)]
    pub allow: Vec<HostGrant>,
    /// Grants for public addresses only.
    #[serde(default)]
    pub public: Vec<HostGrant>,
    /// Denied names, unless a grant matches more specifically.
    #[serde(default)]
    pub deny: Vec<HostGrant>,
    /// Grants every name with a public address, and records each `name:port` that was reached in this host file.
    #[serde(default)]
    pub learn: Option<Learn>,
    /// The host's own proxies.
    #[serde(default)]
    pub proxies: Proxies,
    /// The file in which a missing grant would be written.
    #[serde(default)]
    pub asker: GrantOrigin,
    /// Port forwards from the host's loopback to ports inside.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// The user's ssh agent; the program can request signatures at [`SSH_AGENT`].
    #[serde(default)]
    pub ssh_agent: Option<SshAgent>,
    /// The log of requested connections and their results.
    #[serde(default)]
    pub record: Option<Record>,
    /// Secrets that requests to their hosts carry.
    #[serde(default)]
    pub secrets: Option<Secrets>,
    /// Records the responses that the program gets, or answers from a record.
    #[serde(default)]
    pub recording: Option<Recording>,
    /// The most bytes that the program may send and receive; the run ends after that. Port forwards do not count.
    #[serde(default)]
    pub max_bytes: Option<u64>,
}

/// The path of the ssh agent's socket inside.
pub const SSH_AGENT: &str = "/run/silo/ssh-agent.sock";

/// The user's ssh agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshAgent {
    /// Its socket on the host.
    #[serde(with = "text::one")]
    pub socket: PathBuf,
}

/// The origin of a network request; it decides the file named in the hint for a missing grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantOrigin {
    /// A build step: the recipe.
    #[default]
    Step,
    /// A run: `silo.toml`.
    Run,
}

impl Network {
    /// Returns the grants and denials.
    pub fn policy(&self) -> Policy {
        Policy { allow: self.allow.clone(), public: self.public.clone(), deny: self.deny.clone() }
    }

    /// Returns a `resolv.conf` that points programs to the resolver inside.
    pub fn file(&self) -> File {
        let text = format!("nameserver {}\n", silo_wire::RESOLVER);
        File { guest: "/etc/resolv.conf".into(), bytes: Bytes(text.into_bytes()), mode: 0o644 }
    }

    fn check_ports(&self) -> Result<(), Error> {
        let mut hosts = BTreeSet::new();
        match self.ports.iter().find(|port| !hosts.insert(port.host)) {
            Some(twice) => Err(Error::Spec { reason: format!("port {} of this machine is forwarded to two ports inside", twice.host) }),
            None => Ok(()),
        }
    }
}

impl Spec {
    /// Returns the spec as JSON, for another process.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Parses the result of [`Spec::to_json`].
    pub fn from_json(json: &[u8]) -> Result<Spec, Error> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Returns true in review mode, in which the project is the lower layer of an overlay.
    pub fn is_reviewed(&self) -> bool {
        self.overlays.iter().any(|overlay| overlay.fallback == Fallback::Fail)
    }

    /// Fails if the spec describes an impossible sandbox.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Spec { reason });
        if self.argv.is_empty() {
            return refuse("argv is empty".to_owned());
        }
        if self.root.lower.is_empty() {
            return refuse("the root has no lower directory".to_owned());
        }
        if self.hostname.is_empty() || self.hostname.len() > 64 {
            return refuse(format!("hostname {:?} is not 1 to 64 bytes long", self.hostname));
        }
        let guests = (self.mounts.iter().map(|mount| &mount.guest))
            .chain(self.dirs.iter().map(|dir| &dir.guest))
            .chain(self.files.iter().map(|file| &file.guest))
            .chain(&self.read_only)
            .chain(&self.hidden)
            .chain(&self.removable)
            .chain(self.overlays.iter().flat_map(|overlay| &overlay.guests))
            .chain(self.owners.iter().flat_map(|owned| std::iter::once(&owned.path).chain(&owned.first)))
            .chain([&self.cwd]);
        for guest in guests {
            let plain = guest.is_absolute() && !guest.components().any(|part| part == std::path::Component::ParentDir);
            if !plain {
                return refuse(format!("guest path {} is not absolute and plain", guest.display()));
            }
        }
        if self.seed.is_some() && self.identity != Identity::Root {
            return refuse("only a build step has a seed".to_owned());
        }
        if self.fixed_time.is_some() && self.identity != Identity::Root {
            return refuse("only a build step has a fixed time".to_owned());
        }
        if self.conditions != Conditions::default() && self.identity != Identity::Root {
            return refuse("only a build step has other conditions".to_owned());
        }
        if self.conditions.processors.is_some_and(|count| count == 0 || count > Conditions::MAX_PROCESSORS) {
            return refuse(format!("a step has 1 to {} processors", Conditions::MAX_PROCESSORS));
        }
        if let Some(mount) = self.mounts.iter().find(|mount| mount.guest.parent().is_none()) {
            return refuse(format!("{} cannot be mounted over the root", mount.host.path().display()));
        }
        for text in self.argv.iter().chain(self.env.keys()).chain(self.env.values()) {
            if text.as_encoded_bytes().contains(&0) {
                return refuse(format!("{text:?} holds a NUL byte"));
            }
        }
        for name in self.env.keys() {
            if name.is_empty() || name.as_encoded_bytes().contains(&b'=') {
                return refuse(format!("{name:?} cannot name a variable"));
            }
        }
        if let Some(network) = &self.network {
            network.check_ports()?;
            if let Some(secrets) = &network.secrets {
                secrets.check().map_err(|error| Error::Spec { reason: error.to_string() })?;
            }
        }
        Ok(())
    }
}

pub use abi::Abi;
pub use network_files::{Learn, Record};
pub use step::{Conditions, Owned, Seed};
pub use text::Bytes;
pub use vm_files::{MachineTime, VmFiles};

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn spec() -> Spec {
        Spec {
            machine: None,
            root: Root {
                lower: vec![PathBuf::from(OsString::from_vec(b"/lo:w,er\\\xff".to_vec()))],
                upper: Upper::Ephemeral { size_bytes: 1 << 20 },
            },
            mounts: vec![Mount { host: "/home/a b".into(), guest: "/home/a b".into(), access: Access::ReadWrite }],
            dirs: vec![Dir { guest: "/home".into(), mode: 0o755 }],
            files: vec![File { guest: "/etc/x".into(), bytes: Bytes(vec![0, 159, 146, 150]), mode: 0o644 }],
            read_only: vec!["/home/a b/.git/hooks".into()],
            overlays: vec![Overlay {
                lower: "/home/a b/.git".into(),
                upper: "/u".into(),
                work: "/w".into(),
                guests: vec!["/home/a b/.git".into()],
                fallback: Fallback::Fail,
            }],
            hidden: vec!["/home/a b/socket".into()],
            removable: vec!["/home/a b/node_modules".into()],
            argv: vec!["prog".into(), OsString::new(), OsString::from_vec(vec![0x80, b'"', 0xfe])],
            env: BTreeMap::from([("PATH".into(), "/bin".into()), (OsString::from_vec(vec![0xff]), OsString::from_vec(vec![0xfe]))]),
            cwd: "/home/a b".into(),
            hostname: "silo".into(),
            identity: Identity::Caller,
            abi: Abi::Native,
            stdio: Stdio::Log { path: "/log".into() },
            limits: Limits { tasks: Some(64), ..Limits::default() },
            network: Some(Network { allow: vec![HostGrant::parse("a.example:22").expect("a grant")], ..Network::default() }),
            owners: vec![Owned {
                path: "/etc/shadow".into(),
                uid: 0,
                gid: 42,
                mode: 0o640,
                mtime: 1,
                capability: Some(vec![1, 0, 0, 2]),
                first: Some("/etc/first".into()),
            }],
            owners_at: Some("/owners".into()),
            seed: None,
            fixed_time: None,
            conditions: Conditions::default(),
        }
    }

    #[test]
    fn travels_byte_by_byte() {
        let spec = spec();
        let json = spec.to_json().expect("a spec has no map with keys that are not text");
        assert_eq!(Spec::from_json(&json).expect("it was written by to_json"), spec);
        assert!(Spec::from_json(b"{\"rooot\": 1}").is_err());
        let json = String::from_utf8(spec.to_json().expect("it is data")).expect("it is text");
        let ungranted = json.replace("a.example:22", "a b");
        assert!(Spec::from_json(ungranted.as_bytes()).is_err() && ungranted != json, "a text that is no grant is refused");
    }

    #[test]
    fn refuses_what_no_sandbox_could_be() {
        type Spoil = fn(&mut Spec);
        let cases: [(&str, Spoil); 12] = [
            ("argv is empty", |spec| spec.argv.clear()),
            ("no lower", |spec| spec.root.lower.clear()),
            ("hostname", |spec| spec.hostname.clear()),
            ("not absolute", |spec| spec.cwd = "a".into()),
            ("not absolute", |spec| spec.files[0].guest = "/etc/../x".into()),
            ("not absolute", |spec| spec.owners[0].path = "/../etc/shadow".into()),
            ("seed", |spec| spec.seed = Some(Seed([7; 32]))),
            ("fixed time", |spec| spec.fixed_time = Some(1)),
            ("conditions", |spec| spec.conditions.reversed_dirs = true),
            ("over the root", |spec| spec.mounts[0].guest = "/".into()),
            ("NUL", |spec| spec.argv.push("a\0b".into())),
            ("variable", |spec| drop(spec.env.insert("A=B".into(), "c".into()))),
        ];
        spec().check().expect("the example is sound");
        for (expect, spoil) in cases {
            let mut spec = spec();
            spoil(&mut spec);
            let error = spec.check().expect_err(expect).to_string();
            assert!(error.contains(expect), "{error} lacks {expect}");
        }
    }
}
