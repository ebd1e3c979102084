//! The host directories and files shared with a VM: each once, with its access.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::guest_paths::{GIVEN, SHARES};
use crate::spec::host_path::HostPath;
use crate::spec::{Access, Overlay, Spec};

/// A host directory or a single file shared with a VM.
pub(super) struct Share {
    /// The path on the host.
    pub host: HostPath,
    /// Read-only or writable.
    pub access: Access,
    /// The name of a single file. Only directories can be shared, so the file gets a directory of its own.
    pub file: Option<OsString>,
}

/// All shares of a VM.
pub(super) struct SharedDirs {
    /// The shares, without duplicates.
    pub hosts: Vec<Share>,
}

impl SharedDirs {
    /// Collects the shares of a spec, without duplicates.
    pub fn of(spec: &Spec) -> SharedDirs {
        let mut hosts: Vec<Share> = Vec::new();
        for mount in &spec.mounts {
            match hosts.iter_mut().find(|share| share.host == mount.host) {
                // A read-only mount of a writable share is enforced by the inner sandbox.
                Some(share) if mount.access == Access::ReadWrite => share.access = Access::ReadWrite,
                Some(_) => {}
                None => {
                    let path = mount.host.path();
                    let file = path.is_file().then(|| path.file_name().map(ToOwned::to_owned)).flatten();
                    hosts.push(Share { host: mount.host.clone(), access: mount.access, file });
                }
            }
        }
        SharedDirs { hosts }
    }

    /// Returns the path inside for a host path of the spec.
    pub fn inside(&self, host: &HostPath) -> PathBuf {
        let number = self.hosts.iter().position(|share| share.host == *host).unwrap_or_default();
        let dir = Path::new(SHARES).join(number.to_string());
        match self.hosts.get(number).and_then(|share| share.file.as_ref()) {
            Some(name) => dir.join(name),
            None => dir,
        }
    }

    /// Converts guest paths to paths in QEMU's sandbox, without duplicates; skips paths outside all shares.
    pub fn protected(&self, guests: &[PathBuf], spec: &Spec) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = guests.iter().filter_map(|path| self.outside(path, spec)).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// Returns the overlays over directories of shares.
    pub fn overlays(&self, spec: &Spec) -> Vec<Overlay> {
        let outside = |overlay: &Overlay| Overlay { guests: self.protected(&overlay.guests, spec), ..overlay.clone() };
        spec.overlays.iter().map(outside).collect()
    }

    fn outside(&self, path: &Path, spec: &Spec) -> Option<PathBuf> {
        let outer = spec.mounts.iter().filter(|mount| path.starts_with(&mount.guest));
        let mount = outer.max_by_key(|mount| mount.guest.as_os_str().len())?;
        let number = self.hosts.iter().position(|share| share.host == mount.host)?;
        let (top, below) = (self.hosts[number].outside(number), path.strip_prefix(&mount.guest).unwrap_or(path));
        // Joining an empty path would add a slash, which is invalid for a file.
        Some(if below.as_os_str().is_empty() { top } else { top.join(below) })
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

/// Returns the mount tag of a share.
pub fn tag(number: usize) -> String {
    format!("share{number}")
}
