//! What a machine sees of the host's directories and files: each once, by its rule.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::machine::{GIVEN, SHARES};
use crate::launch::spec::host_path::HostPath;
use crate::launch::spec::{Access, Overlay, Spec};

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

    /// Guest paths as QEMU sees them, each once; those that are in no share are left out.
    pub fn protected(&self, guests: &[PathBuf], spec: &Spec) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = guests.iter().filter_map(|path| self.outside(path, spec)).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// The layers over directories of shares.
    pub fn overlays(&self, spec: &Spec) -> Vec<Overlay> {
        let outside = |overlay: &Overlay| Overlay { guests: self.protected(&overlay.guests, spec), ..overlay.clone() };
        spec.overlays.iter().map(outside).collect()
    }

    fn outside(&self, path: &Path, spec: &Spec) -> Option<PathBuf> {
        let outer = spec.mounts.iter().filter(|mount| path.starts_with(&mount.guest));
        let mount = outer.max_by_key(|mount| mount.guest.as_os_str().len())?;
        let number = self.hosts.iter().position(|share| share.host == mount.host)?;
        let (top, below) = (self.hosts[number].outside(number), path.strip_prefix(&mount.guest).unwrap_or(path));
        // A path that ends with a slash is that of a directory, which a file's is not.
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

/// The tag by which the machine mounts a share.
pub fn tag(number: usize) -> String {
    format!("share{number}")
}
