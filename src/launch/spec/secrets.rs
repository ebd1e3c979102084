//! The secrets of a run, as data without values: the broker reads a value itself when the program first uses the network.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker::authority::Authority;
use silo_base::secret::{self, Source};

use super::text;

/// The secrets of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// Certifies the hosts of the secrets for the programs of this run.
    pub authority: Authority,
    /// The host's CA bundle, which verifies the hosts.
    #[serde(with = "text::perhaps", default)]
    pub roots: Option<PathBuf>,
    /// Each secret.
    pub list: Vec<Secret>,
}

/// One secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The variable inside.
    pub name: String,
    /// Its value inside.
    pub placeholder: String,
    /// The source of the value outside.
    pub from: Source,
    /// The hosts that get the value, as `name` or `name:port`.
    pub hosts: Vec<String>,
}

impl Secrets {
    /// Checks the hosts.
    pub fn check(&self) -> Result<(), secret::Error> {
        self.list.iter().flat_map(|secret| &secret.hosts).try_for_each(|host| secret::host(host).map(drop))
    }
}
