//! A file or directory of the host, by path and by inode.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::text;

/// A host file or directory for a sandbox.
///
/// A path alone may name another file by the time it is mounted. The kernel mounts only files that were opened in the sandbox's own mount
/// namespace, so the caller's file descriptor cannot be mounted itself. Instead the caller keeps its descriptor open, which keeps the inode
/// number from being reused. The launcher opens the path again without following any symlink, and mounts it only if the inode is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    #[serde(with = "text::one")]
    path: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<Inode>,
}

/// The identity of a file, valid while a file descriptor to it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inode {
    /// The device of its file system.
    pub device: u64,
    /// The inode number.
    pub number: u64,
}

impl HostPath {
    /// Names an opened file. It is mounted only if this path still has this inode and contains no symlink.
    pub fn opened(path: PathBuf, inode: Inode) -> HostPath {
        HostPath { path, inode: Some(inode) }
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the inode that the path must have; `None` for a path that only Silo writes to.
    pub fn inode(&self) -> Option<Inode> {
        self.inode
    }
}

/// For paths that no other program can replace: Silo's own files and the host's system files.
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
