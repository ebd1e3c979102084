//! Host files about the network use of a sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;

/// The log of a program's network use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// A host file; created with the first entry.
    #[serde(with = "text::one")]
    pub into: PathBuf,
    /// Its first line.
    pub title: String,
}

/// The destination of learned names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learn {
    /// A host file; created if missing.
    #[serde(with = "text::one")]
    pub into: PathBuf,
}
