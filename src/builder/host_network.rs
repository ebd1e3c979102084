//! The host's network configuration, as a build or a run gets it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use silo_launch::broker::upstream_proxy::Proxies;

/// The host's network configuration.
#[derive(Clone, Debug, Default)]
pub struct HostNetwork {
    /// The host's proxies.
    pub proxies: Proxies,
    /// Candidate paths of the host's CA bundle; the first existing file is used.
    pub roots: Vec<PathBuf>,
    /// Variables of [`silo_model::ecosystem::registries::ASKED`] that are set; they name the user's own registries.
    pub variables: BTreeMap<String, String>,
    /// The user's home directory, with the settings of package clients.
    pub user_home: PathBuf,
}

impl HostNetwork {
    /// Returns the path of the host's CA bundle.
    pub fn bundle(&self) -> Option<&Path> {
        self.roots.iter().map(PathBuf::as_path).find(|path| path.is_file())
    }
}
