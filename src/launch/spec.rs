//! The launch spec: everything one launch needs, as data.
//!
//! Pure: nothing here touches the system. A spec can travel to another process as JSON
//! ([`Spec::to_json`], [`Spec::from_json`]); paths, arguments and variables stay exact byte for
//! byte on the way, empty ones and ones that are not UTF-8 included.

mod text;

pub mod host_path;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker::proxies::Proxies;
use crate::grant::{Grant, Policy, Port};

use super::error::Error;
use host_path::HostPath;

/// One program to run in one sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The root file system.
    pub root: Root,
    /// What of the host is visible, in the order of mounting (an outer one before an inner one).
    pub mounts: Vec<Mount>,
    /// Directories that must exist before the start.
    pub dirs: Vec<Dir>,
    /// Files written before the start; they hide what the image has at their place.
    pub files: Vec<File>,
    /// Guest paths inside writable mounts that are read-only all the same.
    ///
    /// Those that do not exist are passed over. Every directory between the mount and such a path
    /// is pinned (it cannot be renamed or removed inside), since otherwise a guest could move
    /// `.git` away and make another one with hooks of its own. A host directory that is mounted at
    /// two places needs its paths listed for both.
    #[serde(with = "text::list")]
    pub read_only: Vec<PathBuf>,
    /// Directories of mounts that the program sees under a layer of its own.
    #[serde(default)]
    pub overlays: Vec<Overlay>,
    /// Guest paths inside mounts at which something empty is seen, whatever the host has there. Those that do not exist are
    /// passed over.
    #[serde(with = "text::list", default)]
    pub hidden: Vec<PathBuf>,
    /// The program and its arguments; a program without a slash is looked up in the `PATH` of `env`.
    #[serde(with = "text::list")]
    pub argv: Vec<OsString>,
    /// The whole environment; nothing is inherited.
    #[serde(with = "text::map")]
    pub env: BTreeMap<OsString, OsString>,
    /// The working directory, as a guest path.
    #[serde(with = "text::one")]
    pub cwd: PathBuf,
    /// The name that `hostname` gives inside.
    pub hostname: String,
    /// Who the program is.
    pub identity: Identity,
    /// Where its standard streams lead.
    pub stdio: Stdio,
    /// What it may use up.
    pub limits: Limits,
    /// What it may reach; by default nothing, and then there is nothing to ask either.
    #[serde(default)]
    pub network: Option<Network>,
    /// The virtual machine that it runs in; by default it runs under the host's own kernel.
    #[serde(default)]
    pub machine: Option<Machine>,
}

/// A virtual machine with a kernel of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The root of the image that has QEMU and the kernel's modules.
    #[serde(with = "text::one")]
    pub root: PathBuf,
    /// The kernel, unpacked.
    #[serde(with = "text::one")]
    pub kernel: PathBuf,
    /// The initial file system.
    #[serde(with = "text::one")]
    pub initial: PathBuf,
    /// The program's root as a file system, which holds what `root.lower` of the spec does; without one the directories
    /// themselves are shared, which is slower to read.
    #[serde(with = "text::perhaps", default)]
    pub disk: Option<PathBuf>,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Its processors.
    pub cpus: u32,
    /// Where snapshots of such machines lie; without it each one boots.
    #[serde(with = "text::perhaps", default)]
    pub snapshots: Option<PathBuf>,
    /// What runs once in a machine before its snapshot is taken, so that its files are in memory.
    #[serde(with = "text::list", default)]
    pub warm_up: Vec<OsString>,
}

/// The root file system: read-only directories below, a writable one above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Host directories, the topmost first; usually the one tree that was composed for the image.
    #[serde(with = "text::list")]
    pub lower: Vec<PathBuf>,
    /// Where writes go.
    pub upper: Upper,
}

/// Where writes to the root file system go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Upper {
    /// Into memory, gone with the sandbox.
    Ephemeral {
        /// At most so many bytes.
        size_bytes: u64,
    },
    /// Into a directory, to be captured afterwards.
    ///
    /// `dirs`, `files` and mount points that the image lacks do not show up there: they are put
    /// into a layer of their own below it. `/tmp` is in memory then. Writes are never synced: after
    /// a crash of the machine the directory is worth nothing.
    Kept {
        /// The directory that receives what the program changed.
        #[serde(with = "text::one")]
        upper: PathBuf,
        /// A directory on the same file system, for the kernel's own use.
        #[serde(with = "text::one")]
        work: PathBuf,
    },
}

/// A host file or directory made visible inside, with everything mounted below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The file or directory on the host.
    pub host: HostPath,
    /// Where it appears; made when missing (on the host, if it lies inside another writable mount).
    #[serde(with = "text::one")]
    pub guest: PathBuf,
    /// Whether it can be written.
    pub access: Access,
}

/// A directory of the host that is seen under a layer of the sandbox's own: what is written goes there, and the host's
/// directory stays as it is. Where the kernel cannot do that the directory is read-only, and a directory
/// [`UNLAYERED`](crate::launch::UNLAYERED) in `work` says so.
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
    /// Where it appears, in mounts that are there.
    #[serde(with = "text::list")]
    pub guests: Vec<PathBuf>,
}

/// Whether a mount can be written.
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
    /// Where.
    #[serde(with = "text::one")]
    pub guest: PathBuf,
    /// Its permission bits.
    pub mode: u32,
}

/// The mode of a [`File`] that is a symlink: its type as the kernel has it, and all permissions.
pub const SYMLINK: u32 = 0o120_777;

/// A file written before the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where.
    #[serde(with = "text::one")]
    pub guest: PathBuf,
    /// Its content; the target of a symlink.
    #[serde(with = "text::one")]
    pub bytes: text::Bytes,
    /// Its permission bits, or [`SYMLINK`].
    pub mode: u32,
}

/// Who the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The caller, by the same number: what it makes in a project belongs to the caller.
    Caller,
    /// Root of its own user namespace, for build steps.
    ///
    /// Changes of ownership succeed and are recorded as the extended attribute `user.silo.owner`
    /// (`uid:gid`) of files and directories of the root file system; changes of the own identity
    /// succeed without effect. Needs [`Upper::Kept`] to be of any use.
    Root,
    /// The caller under the name of root, with no more power than [`Identity::Caller`]: for the program that is a
    /// virtual machine. So what belongs to the caller belongs to the machine's root, whoever the caller is.
    Machine,
}

/// Where the standard streams lead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Stdio {
    /// A terminal of the sandbox's own when the caller's input and output are terminals, else the
    /// caller's own streams.
    Auto,
    /// No input; output and errors are appended to this host file.
    Log {
        /// The file; made when missing.
        #[serde(with = "text::one")]
        path: PathBuf,
    },
}

/// What a sandbox may use up; `None` sets no limit beyond the caller's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory of all processes together; without a delegated cgroup, of each single one.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Open files of each process.
    pub open_files: Option<u64>,
    /// Processors' worth of time, in thousandths (1500 is one and a half); only with a delegated cgroup.
    pub cpu_thousandths: Option<u64>,
}

/// What a program may reach, by name: it asks a resolver inside, and Silo dials from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What is granted, as [`Grant`] has it. A host granted by its own name may be of the host's own network.
    #[serde(default)]
    pub allow: Vec<String>,
    /// The same, for public addresses alone.
    #[serde(default)]
    pub public: Vec<String>,
    /// What is not, unless something granted names it more closely.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Grants every name with a public address, and notes each `name:port` that was reached in this host file.
    #[serde(default)]
    pub learn: Option<Learn>,
    /// The machine's own proxies.
    #[serde(default)]
    pub proxies: Proxies,
    /// Where a grant would be written.
    #[serde(default)]
    pub asker: Asker,
    /// Ports of this machine's own loopback that lead to ports inside.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// The user's ssh agent, which a program may ask for signatures at [`SSH_AGENT`].
    #[serde(default)]
    pub ssh_agent: Option<SshAgent>,
    /// Where what was asked for and what came of it is noted.
    #[serde(default)]
    pub record: Option<Record>,
}

/// Where a program finds the user's ssh agent.
pub const SSH_AGENT: &str = "/run/silo/ssh-agent.sock";

/// The user's ssh agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshAgent {
    /// Its socket on the host.
    #[serde(with = "text::one")]
    pub socket: PathBuf,
}

/// Where what a program did with its network is noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// A host file; made when there is something to note.
    #[serde(with = "text::one")]
    pub into: PathBuf,
    /// Its first line.
    pub title: String,
}

/// On whose behalf a program asks; it says where a grant that it lacks would be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asker {
    /// A step of a build: in its recipe.
    #[default]
    Step,
    /// A run: in silo.toml.
    Run,
}

/// Where what is learned goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learn {
    /// A host file; made when missing.
    #[serde(with = "text::one")]
    pub into: PathBuf,
}

impl Network {
    /// Reads what may be reached.
    pub fn policy(&self) -> Result<Policy, Error> {
        Ok(Policy { allow: self.grants(&self.allow)?, public: self.grants(&self.public)?, deny: self.grants(&self.deny)? })
    }

    /// The file that leads programs to the resolver inside.
    pub fn file(&self) -> File {
        let text = format!("nameserver {}\n", silo_wire::RESOLVER);
        File { guest: "/etc/resolv.conf".into(), bytes: Bytes(text.into_bytes()), mode: 0o644 }
    }

    fn check_ports(&self) -> Result<(), Error> {
        let mut hosts = BTreeSet::new();
        match self.ports.iter().find(|port| !hosts.insert(port.host)) {
            Some(twice) => Err(Error::Spec { reason: format!("port {} of this machine leads to two ports inside", twice.host) }),
            None => Ok(()),
        }
    }

    fn grants(&self, list: &[String]) -> Result<Vec<Grant>, Error> {
        let read = |text: &String| Grant::parse(text).ok_or_else(|| Error::Spec { reason: format!("{text:?} is not a grant") });
        list.iter().map(read).collect()
    }
}

impl Spec {
    /// Returns the spec as JSON, for another process.
    pub fn to_json(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads what [`Spec::to_json`] wrote.
    pub fn from_json(json: &[u8]) -> Result<Spec, Error> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Says what no sandbox could be made of.
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
            .chain(self.overlays.iter().flat_map(|overlay| &overlay.guests))
            .chain([&self.cwd]);
        for guest in guests {
            let plain = guest.is_absolute() && !guest.components().any(|part| part == std::path::Component::ParentDir);
            if !plain {
                return refuse(format!("guest path {} is not absolute and plain", guest.display()));
            }
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
            network.policy()?;
            network.check_ports()?;
        }
        Ok(())
    }
}

pub use text::Bytes;

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
            }],
            hidden: vec!["/home/a b/socket".into()],
            argv: vec!["prog".into(), OsString::new(), OsString::from_vec(vec![0x80, b'"', 0xfe])],
            env: BTreeMap::from([("PATH".into(), "/bin".into()), (OsString::from_vec(vec![0xff]), OsString::from_vec(vec![0xfe]))]),
            cwd: "/home/a b".into(),
            hostname: "silo".into(),
            identity: Identity::Caller,
            stdio: Stdio::Log { path: "/log".into() },
            limits: Limits { tasks: Some(64), ..Limits::default() },
            network: Some(Network { allow: vec!["a.example:22".to_owned()], ..Network::default() }),
        }
    }

    #[test]
    fn travels_byte_by_byte() {
        let spec = spec();
        let json = spec.to_json().expect("a spec has no map with keys that are not text");
        assert_eq!(Spec::from_json(&json).expect("it was written by to_json"), spec);
        assert!(Spec::from_json(b"{\"rooot\": 1}").is_err());
    }

    #[test]
    fn refuses_what_no_sandbox_could_be() {
        type Spoil = fn(&mut Spec);
        let cases: [(&str, Spoil); 9] = [
            ("argv is empty", |spec| spec.argv.clear()),
            ("no lower", |spec| spec.root.lower.clear()),
            ("hostname", |spec| spec.hostname.clear()),
            ("not absolute", |spec| spec.cwd = "a".into()),
            ("not absolute", |spec| spec.files[0].guest = "/etc/../x".into()),
            ("over the root", |spec| spec.mounts[0].guest = "/".into()),
            ("NUL", |spec| spec.argv.push("a\0b".into())),
            ("variable", |spec| drop(spec.env.insert("A=B".into(), "c".into()))),
            ("not a grant", |spec| spec.network = Some(Network { public: vec!["a b".to_owned()], ..Network::default() })),
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
