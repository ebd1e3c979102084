//! The recording of a build step's network, as data.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker::authority::Authority;

use super::text;

/// A file for the responses that a step gets, and perhaps a record that answers instead of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Certifies hosts for the programs of this run.
    pub authority: Authority,
    /// A bundle of the CA certificates that verify hosts.
    #[serde(with = "text::one")]
    pub roots: PathBuf,
    /// The file for responses and reports; created if missing.
    #[serde(with = "text::one")]
    pub into: PathBuf,
    /// Limit on its bytes.
    pub max_bytes: u64,
    /// The directory of a record, which answers instead of hosts.
    #[serde(with = "text::perhaps", default)]
    pub from: Option<PathBuf>,
    /// Places that are not inspected, as `host:port`.
    #[serde(default)]
    pub except: BTreeSet<String>,
}
