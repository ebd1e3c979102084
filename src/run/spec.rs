//! Assembles the launch spec of a run. Pure: uses neither the file system nor the environment.
//!
//! A program sees the image's root under a temporary overlay, one project at its own path (and at `/workspace`), persistent directories,
//! and the named files and variables. Nothing else of the host is visible.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use silo_launch::spec::{
    Abi, Bytes, Conditions, Dir, File, Identity, Limits, Mount, Network, Overlay, Root, SSH_AGENT, SYMLINK, Spec, Stdio, Upper, VmFiles,
};

use super::user::{Accounts, User};

/// Default limit of writes outside the project; they are kept in memory and discarded at the end.
const SCRATCH_BYTES: u64 = 4 << 30;
/// Default limit of processes and threads, and the highest one: far above any build's needs, far below a danger to the host.
const TASKS: u64 = 8192;

/// All decisions about one run.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The image's composed root.
    pub root: PathBuf,
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Complete environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Mounts in any order.
    pub mounts: Vec<Mount>,
    /// Read-only guest paths inside writable mounts.
    pub read_only: Vec<PathBuf>,
    /// Overlays over directories of the mounts.
    pub overlays: Vec<Overlay>,
    /// Guest paths that appear empty.
    pub hidden: Vec<PathBuf>,
    /// Guest paths of directories that the program may remove and make again.
    pub removable: Vec<PathBuf>,
    /// Working directory.
    pub cwd: PathBuf,
    /// The caller.
    pub user: &'a User,
    /// The image's account files, to which the caller is added.
    pub accounts: Accounts,
    /// Resource limits.
    pub budget: Budget,
    /// Network access; `None` for no network.
    pub network: Option<Network>,
    /// Files for the network, the terminal and the time zone.
    pub files: Vec<File>,
    /// A symlink and its target: the user's own path to the project.
    pub alias: Option<(PathBuf, PathBuf)>,
    /// VM of the run; `None` for the native tier.
    pub machine: Option<VmFiles>,
    /// Programs that may run.
    pub abi: Abi,
}

/// Resource limits of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// CPU limit.
    pub cpus: Option<u32>,
    /// Memory limit in MiB.
    pub memory_mb: Option<u64>,
    /// Time limit in seconds.
    pub time_seconds: Option<u64>,
    /// Limit in MiB of data over the network.
    pub network_mb: Option<u64>,
    /// Limit of processes and threads; `None` for the default.
    pub processes: Option<u64>,
    /// Limit of writes outside of mounts in MiB; `None` for the default.
    pub scratch_mb: Option<u64>,
}

/// Assembles the launch spec.
pub fn assemble(parts: Parts<'_>) -> Spec {
    let mut mounts = parts.mounts;
    // Outer mounts first: a later mount hides everything below its path.
    mounts.sort_by_key(|mount| mount.guest.components().count());
    let mib = |mib: u64| mib.saturating_mul(1 << 20);
    let mut dirs = vec![Dir { guest: parts.user.home.clone(), mode: 0o700 }];
    if parts.network.as_ref().is_some_and(|network| network.ssh_agent.is_some()) {
        dirs.extend(Path::new(SSH_AGENT).parent().map(|dir| Dir { guest: dir.to_owned(), mode: 0o755 }));
    }
    let mut files = host_files(parts.network.as_ref());
    files.extend(parts.user.account_files(parts.accounts));
    files.extend(parts.files);
    files.extend(parts.alias.map(|(guest, target)| File { guest, bytes: Bytes(target.into_os_string().into_vec()), mode: SYMLINK }));
    Spec {
        machine: parts.machine,
        root: Root { lower: vec![parts.root], upper: Upper::Ephemeral { size_bytes: parts.budget.scratch_mb.map_or(SCRATCH_BYTES, mib) } },
        mounts,
        dirs,
        files,
        read_only: parts.read_only,
        overlays: parts.overlays,
        hidden: parts.hidden,
        removable: parts.removable,
        argv: parts.argv,
        env: parts.env,
        cwd: parts.cwd,
        hostname: "silo".to_owned(),
        identity: Identity::Caller,
        abi: parts.abi,
        stdio: Stdio::Auto,
        limits: Limits {
            memory_bytes: parts.budget.memory_mb.map(mib),
            tasks: Some(parts.budget.processes.map_or(TASKS, |processes| processes.min(TASKS))),
            open_files: None,
            cpu_thousandths: parts.budget.cpus.map(|cpus| u64::from(cpus) * 1000),
            time_seconds: parts.budget.time_seconds,
        },
        network: parts.network.map(|network| Network { max_bytes: parts.budget.network_mb.map(mib), ..network }),
        owners: Vec::new(),
        owners_at: None,
        seed: None,
        fixed_time: None,
        conditions: Conditions::default(),
    }
}

/// Files for the host name and the resolver.
fn host_files(network: Option<&Network>) -> Vec<File> {
    let file = |guest: &str, text: &str| File { guest: guest.into(), bytes: Bytes(text.as_bytes().to_vec()), mode: 0o644 };
    vec![
        file("/etc/hostname", "silo\n"),
        file("/etc/hosts", "127.0.0.1\tlocalhost silo\n::1\tlocalhost silo\n"),
        network.map_or_else(|| file("/etc/resolv.conf", ""), Network::file),
    ]
}
