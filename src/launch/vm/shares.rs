//! What a machine sees of the host's directories and files: each once, by its rule.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::machine::{GIVEN, SHARES};
use crate::launch::spec::host_path::HostPath;
use crate::launch::spec::{Access, Spec};

/// A host directory, or one file, that a machine sees.
pub(super) struct Share {
    /// Where it is on the host.
    pub host: HostPath,
    /// Whether it can be written.
    pub access: Access,
    /// Its name, if it is a file: only a directory can be shared, so it lies in one that is made for it.
    pub file: Option<OsString>,
}

/// What of the host a machine sees.
pub(super) struct Shares {
    /// Each once.
    pub hosts: Vec<Share>,
}

impl Shares {
    /// Lists what is shared, each once.
    pub fn of(spec: &Spec) -> Shares {
        let mut hosts: Vec<Share> = Vec::new();
        for mount in &spec.mounts {
            match hosts.iter_mut().find(|share| share.host == mount.host) {
                // Read-only where it is mounted so; the inner sandbox sees to that.
                Some(share) if mount.access == Access::ReadWrite => share.access = Access::ReadWrite,
                Some(_) => {}
                None => {
                    let path = mount.host.path();
                    let file = path.is_file().then(|| path.file_name().map(ToOwned::to_owned)).flatten();
                    hosts.push(Share { host: mount.host.clone(), access: mount.access, file });
                }
            }
        }
        Shares { hosts }
    }

    /// Where a host path of the spec is inside.
    pub fn inside(&self, host: &HostPath) -> PathBuf {
        let number = self.hosts.iter().position(|share| share.host == *host).unwrap_or_default();
        let dir = Path::new(SHARES).join(number.to_string());
        match self.hosts.get(number).and_then(|share| share.file.as_ref()) {
            Some(name) => dir.join(name),
            None => dir,
        }
    }

    /// The paths that only may be read, as QEMU sees them.
    pub fn protected(&self, spec: &Spec) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = Vec::new();
        for path in &spec.read_only {
            let outer = spec.mounts.iter().filter(|mount| path.starts_with(&mount.guest));
            let Some(mount) = outer.max_by_key(|mount| mount.guest.as_os_str().len()) else { continue };
            let Some(number) = self.hosts.iter().position(|share| share.host == mount.host) else { continue };
            let below = path.strip_prefix(&mount.guest).unwrap_or(path);
            paths.push(self.hosts[number].outside(number).join(below));
        }
        paths.sort();
        paths.dedup();
        paths
    }
}

impl Share {
    pub fn outside(&self, number: usize) -> PathBuf {
        let dir = shared_dir(number);
        match &self.file {
            Some(name) => dir.join(name),
            None => dir,
        }
    }
}

pub fn shared_dir(number: usize) -> PathBuf {
    Path::new(GIVEN).join("share").join(number.to_string())
}

/// The tag by which the machine mounts a share.
pub fn tag(number: usize) -> String {
    format!("share{number}")
}
