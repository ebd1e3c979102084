//! A file or directory of the host, by path and by inode.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::text;

/// A file or directory of the host that a sandbox is given.
///
/// A path alone may name another file by the time it is mounted. The kernel mounts only what was opened in the sandbox's own
/// mount namespace, so a descriptor of the caller's cannot be mounted itself. Instead the caller keeps its descriptor open,
/// which keeps the inode number from being reused, and the launcher opens the path again without following any symlink and
/// mounts it only if it has the same inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    #[serde(with = "text::one")]
    path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<Inode>,
}

/// A file's identity as long as somebody has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inode {
    /// The device of its file system.
    pub device: u64,
    /// Its number there.
    pub number: u64,
}

impl HostPath {
    /// Names a file that was opened: mounted only if this path still has this inode, and no symlink is on the way.
    pub fn opened(path: PathBuf, inode: Inode) -> HostPath {
        HostPath { path, inode: Some(inode) }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the inode that the path must have; `None` for a path that only Silo itself writes to.
    pub fn inode(&self) -> Option<Inode> {
        self.inode
    }
}

/// For paths that no other program can replace: Silo's own files, and those of the machine.
impl From<PathBuf> for HostPath {
    fn from(path: PathBuf) -> HostPath {
        HostPath { path, inode: None }
    }
}

impl From<&Path> for HostPath {
    fn from(path: &Path) -> HostPath {
        path.to_owned().into()
    }
}

impl From<&str> for HostPath {
    fn from(path: &str) -> HostPath {
        PathBuf::from(path).into()
    }
}

impl From<OsString> for HostPath {
    fn from(path: OsString) -> HostPath {
        PathBuf::from(path).into()
    }
}

impl AsRef<OsStr> for HostPath {
    fn as_ref(&self) -> &OsStr {
        self.path.as_os_str()
    }
}
