//! From an image and a wish to a launch spec: what a process of a tool sees.
//!
//! It sees the image's root below a layer that is gone afterwards, one project at its own path (and at
//! `/workspace`), the directories that outlive its runs, and the files and variables that are named. Nothing else of the
//! host is there to be seen, and there is no network. [`spec`] is pure: it asks neither the file system nor the environment.

pub mod obeyed;
pub mod worktree;

pub mod activate;
pub mod grammar;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::launch::spec::{Access, Bytes, Dir, File, Identity, Limits, Mount, Root, Spec, Stdio, Upper};

/// Where a project also appears, whatever its own path is.
pub const WORKSPACE: &str = "/workspace";

/// Most that a run may write outside the project: it is kept in memory and gone afterwards.
const SCRATCH_BYTES: u64 = 4 << 30;
/// Processes and threads that a run may have: far above any build's needs, far below what hurts a host.
const TASKS: u64 = 8192;

/// What is to be run, and for whom.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The image's composed root.
    pub root: PathBuf,
    /// The image's environment, as `NAME=value`.
    pub image_env: &'a [String],
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Variables set besides the image's.
    pub env: BTreeMap<OsString, OsString>,
    /// The project that is visible, if any.
    pub project: Option<Shown<'a>>,
    /// What else of the host is visible.
    pub mounts: Vec<Mount>,
    /// What of that and of the project is read-only all the same, besides what the host obeys.
    pub read_only: Vec<PathBuf>,
    /// The directory to start in.
    pub cwd: PathBuf,
    /// The caller.
    pub user: &'a User,
    /// The image's `/etc/passwd` and `/etc/group`, to which the caller is added.
    pub accounts: Accounts,
    /// Processors to use at most.
    pub cpus: Option<u32>,
    /// Memory to use at most, in MiB.
    pub memory_mb: Option<u64>,
    /// What may be written outside of what is mounted, in MiB, where that is not as usual.
    pub scratch_mb: Option<u64>,
}

/// A project as a program sees it.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    /// Its directory, canonical.
    pub path: &'a Path,
    /// Whether it can be written.
    pub access: Access,
    /// Paths in it that the host obeys.
    pub obeyed: Vec<&'a Path>,
    /// Directories in it that the sandbox has of its own, each with the one of the host that it is.
    pub excluded: Vec<(PathBuf, PathBuf)>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// The user's name.
    pub name: String,
    /// The user's home directory, which exists inside but holds nothing.
    pub home: PathBuf,
}

/// The account files of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// `/etc/group`.
    pub group: Vec<u8>,
}

/// Makes the launch spec of a wish.
pub fn spec(wish: Wish<'_>) -> Spec {
    let user = wish.user;
    let mut env: BTreeMap<OsString, OsString> =
        wish.image_env.iter().filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    env.insert("HOME".into(), user.home.clone().into());
    env.insert("USER".into(), user.name.clone().into());
    env.insert("LOGNAME".into(), user.name.clone().into());
    env.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
    env.extend(wish.env);
    let (mut mounts, mut read_only) = (wish.mounts, wish.read_only);
    if let Some(shown) = &wish.project {
        for guest in [shown.path, Path::new(WORKSPACE)] {
            mounts.push(Mount { host: shown.path.to_owned(), guest: guest.to_owned(), access: shown.access });
            for (inner, host) in &shown.excluded {
                mounts.push(Mount { host: host.clone(), guest: guest.join(inner), access: Access::ReadWrite });
            }
            read_only.extend(shown.obeyed.iter().map(|path| guest.join(path)));
        }
    }
    // An outer one before an inner one: what is mounted later hides what is below it.
    mounts.sort_by_key(|mount| mount.guest.components().count());
    let scratch = wish.scratch_mb.map_or(SCRATCH_BYTES, |mib| mib.saturating_mul(1 << 20));
    Spec {
        machine: None,
        root: Root { lower: vec![wish.root], upper: Upper::Ephemeral { size_bytes: scratch } },
        mounts,
        dirs: vec![Dir { guest: user.home.clone(), mode: 0o700 }],
        files: files(user, wish.accounts),
        read_only,
        argv: wish.argv,
        env,
        cwd: wish.cwd,
        hostname: "silo".to_owned(),
        identity: Identity::Caller,
        stdio: Stdio::Auto,
        network: None,
        limits: Limits {
            memory_bytes: wish.memory_mb.map(|mib| mib.saturating_mul(1 << 20)),
            tasks: Some(TASKS),
            open_files: None,
            cpu_thousandths: wish.cpus.map(|cpus| u64::from(cpus) * 1000),
        },
    }
}

fn files(user: &User, mut accounts: Accounts) -> Vec<File> {
    let file = |guest: &str, bytes: Vec<u8>| File { guest: guest.into(), bytes: Bytes(bytes), mode: 0o644 };
    let mut files = vec![
        file("/etc/hostname", b"silo\n".to_vec()),
        file("/etc/hosts", b"127.0.0.1\tlocalhost silo\n::1\tlocalhost silo\n".to_vec()),
        file("/etc/resolv.conf", Vec::new()),
    ];
    if user.uid != 0 {
        let home = user.home.to_string_lossy().replace([':', '\n'], "_");
        accounts.passwd.extend(format!("{}:x:{}:{}::{home}:/bin/sh\n", user.name, user.uid, user.gid).bytes());
        accounts.group.extend(format!("{}:x:{}:\n", user.name, user.gid).bytes());
        files.push(file("/etc/passwd", accounts.passwd));
        files.push(file("/etc/group", accounts.group));
    }
    files
}

/// Returns a name that can stand in `/etc/passwd`: the one given where it is plain, else `user`.
pub fn account_name(name: Option<&OsStr>, uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let name = name
        .and_then(OsStr::to_str)
        .filter(|name| name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && name.chars().all(plain));
    name.unwrap_or("user").to_owned()
}

/// Why a directory is not shown to a tool without an explicit yes.
pub fn exposes(project: &Path, home: &Path) -> Option<&'static str> {
    if project == Path::new("/") {
        Some("it is the whole machine")
    } else if home.starts_with(project) {
        Some("it holds your home directory with its keys and logins")
    } else if project.starts_with(home) && project != home && is_private(project.strip_prefix(home).unwrap_or(project)) {
        Some("it holds keys or logins")
    } else if ["/etc", "/proc", "/sys", "/dev", "/run", "/boot", "/usr", "/var", "/bin", "/lib", "/sbin"]
        .iter()
        .any(|system| project == Path::new(system))
    {
        Some("it belongs to the system")
    } else {
        None
    }
}

fn is_private(below_home: &Path) -> bool {
    let first = below_home.components().next().map(|part| part.as_os_str().to_owned()).unwrap_or_default();
    [".ssh", ".gnupg", ".aws", ".config", ".kube", ".docker", ".silo", ".local", ".mozilla", ".netrc", ".cargo", ".npm"]
        .iter()
        .any(|private| first == *private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_secrets_are_not_shown() {
        for (project, expect) in [
            ("/", true),
            ("/home", true),
            ("/home/me", true),
            ("/home/me/.ssh", true),
            ("/home/me/.config/x", true),
            ("/home/me/project", false),
            ("/home/you", false),
            ("/etc", true),
            ("/srv/work", false),
        ] {
            assert_eq!(exposes(Path::new(project), Path::new("/home/me")).is_some(), expect, "{project}");
        }
    }

    #[test]
    fn account_names_are_plain() {
        for (name, uid, expect) in [
            (Some("me"), 1000, "me"),
            (Some("a:b"), 1000, "user"),
            (Some("Me"), 1000, "user"),
            (None, 1000, "user"),
            (Some("me"), 0, "root"),
        ] {
            assert_eq!(account_name(name.map(OsStr::new), uid), expect);
        }
    }
}
