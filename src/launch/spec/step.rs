//! The parts of a launch spec that only build steps have: true owners, and a seed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;

/// A seed, from which all random numbers of a program follow. Its addresses are not random either, and it sees one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(pub [u8; 32]);

/// A file or directory of the root with its true metadata. On disk it belongs to the caller and has no capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    /// The guest path.
    #[serde(with = "text::one")]
    pub path: PathBuf,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permission bits.
    pub mode: u32,
    /// The modification time, in seconds since 1970.
    pub mtime: i64,
    /// The capabilities, as the kernel's attribute of version 2.
    #[serde(default)]
    pub capability: Option<Vec<u8>>,
    /// The first path of a file with several names, if this is another one.
    #[serde(with = "text::perhaps", default)]
    pub first: Option<PathBuf>,
}
