//! Puts the parts of a run together to a launch spec. Pure: it asks neither the file system nor the environment.
//!
//! A program sees the image's root below a layer that is gone afterwards, one project at its own path (and at
//! `/workspace`), the directories that outlive its runs, and the files and variables that are named. Nothing else of the host
//! is there to be seen.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::launch::spec::{
    Bytes, Dir, File, Identity, Limits, Machine, Mount, Network, Overlay, Root, SSH_AGENT, SYMLINK, Spec, Stdio, Upper,
};

use super::user::{Accounts, User};

/// Most that a run may write outside the project: it is kept in memory and gone afterwards.
const SCRATCH_BYTES: u64 = 4 << 30;
/// Processes and threads that a run may have: far above any build's needs, far below what hurts a host.
const TASKS: u64 = 8192;

/// Everything that was decided about a run.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The image's composed root.
    pub root: PathBuf,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// What of the host is visible, in any order.
    pub mounts: Vec<Mount>,
    /// Guest paths that are read-only all the same.
    pub read_only: Vec<PathBuf>,
    /// Layers over directories of them.
    pub overlays: Vec<Overlay>,
    /// Guest paths at which something empty is seen.
    pub hidden: Vec<PathBuf>,
    /// Guest paths of directories that the program may remove and make again.
    pub removable: Vec<PathBuf>,
    /// The directory to start in.
    pub cwd: PathBuf,
    /// The caller.
    pub user: &'a User,
    /// The image's accounts, to which the caller is added.
    pub accounts: Accounts,
    /// What it may use up.
    pub budget: Budget,
    /// What it may reach; `None` for no network at all.
    pub network: Option<Network>,
    /// Files that programs need for that network.
    pub network_files: Vec<File>,
    /// A path that leads to another one: the user's path to the project.
    pub alias: Option<(PathBuf, PathBuf)>,
    /// The virtual machine that it runs in, if it is not run natively.
    pub machine: Option<Machine>,
}

/// What a run may use up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Processors to use at most.
    pub cpus: Option<u32>,
    /// Memory to use at most, in MiB.
    pub memory_mb: Option<u64>,
    /// What may be written outside of what is mounted, in MiB, where that is not as usual.
    pub scratch_mb: Option<u64>,
}

/// Makes the launch spec.
pub fn assemble(parts: Parts<'_>) -> Spec {
    let mut mounts = parts.mounts;
    // An outer one before an inner one: what is mounted later hides what is below it.
    mounts.sort_by_key(|mount| mount.guest.components().count());
    let mib = |mib: u64| mib.saturating_mul(1 << 20);
    let mut dirs = vec![Dir { guest: parts.user.home.clone(), mode: 0o700 }];
    if parts.network.as_ref().is_some_and(|network| network.ssh_agent.is_some()) {
        dirs.extend(Path::new(SSH_AGENT).parent().map(|dir| Dir { guest: dir.to_owned(), mode: 0o755 }));
    }
    let mut files = host_files(parts.network.as_ref());
    files.extend(parts.user.account_files(parts.accounts));
    files.extend(parts.network_files);
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
        stdio: Stdio::Auto,
        limits: Limits {
            memory_bytes: parts.budget.memory_mb.map(mib),
            tasks: Some(TASKS),
            open_files: None,
            cpu_thousandths: parts.budget.cpus.map(|cpus| u64::from(cpus) * 1000),
        },
        network: parts.network,
    }
}

/// The files by which a program finds its own name, and the resolver inside.
fn host_files(network: Option<&Network>) -> Vec<File> {
    let file = |guest: &str, text: &str| File { guest: guest.into(), bytes: Bytes(text.as_bytes().to_vec()), mode: 0o644 };
    vec![
        file("/etc/hostname", "silo\n"),
        file("/etc/hosts", "127.0.0.1\tlocalhost silo\n::1\tlocalhost silo\n"),
        network.map_or_else(|| file("/etc/resolv.conf", ""), Network::file),
    ]
}
