//! Result of a scan: the paths of a project that host programs act on, with their fingerprints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::fingerprint::Fingerprint;
use super::guarded_paths::GuardAction;

/// A path that host programs act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// Action for the path.
    pub act: GuardAction,
    /// Program that acts on it.
    pub of: String,
}

/// Result of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Existing paths in the project that host programs act on.
    pub(super) obeyed: BTreeMap<PathBuf, Obeyed>,
    /// Fingerprints of these paths and everything below them.
    pub(super) prints: BTreeMap<PathBuf, Fingerprint>,
}

impl Guards {
    /// Returns the paths to mount read-only; none is below another.
    pub fn read_only(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = Vec::new();
        for (path, _) in self.obeyed.iter().filter(|(_, obeyed)| obeyed.act == GuardAction::Guard) {
            if paths.last().is_none_or(|outer| !path.starts_with(outer)) {
                paths.push(path);
            }
        }
        paths
    }

    /// True if a path exists and a host program acts on it.
    pub fn has(&self, path: &str) -> bool {
        self.obeyed.contains_key(Path::new(path))
    }

    /// Returns the entry of a path, or of its nearest parent.
    pub(super) fn of(&self, path: &Path) -> Option<&Obeyed> {
        path.ancestors().find_map(|path| self.obeyed.get(path))
    }
}
