//! The parts of a launch spec that only build steps have: true owners, a seed, and conditions that a reproducibility check varies.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;

/// A seed, from which all random numbers of a program follow. Its addresses are not random either, it sees one processor, and directories
/// list their names in order.
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

/// Conditions of a build step that a reproducibility check varies. The default is that of every build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// The umask, in place of the usual one.
    #[serde(default)]
    pub umask: Option<u32>,
    /// Number of visible processors.
    #[serde(default)]
    pub processors: Option<u32>,
    /// The step's process ids are larger than this.
    #[serde(default)]
    pub last_pid: Option<u32>,
    /// Seconds by which the clock, or the spec's fixed time, is ahead. A running clock goes only forward: files get the true time, and none
    /// may be younger than the clock.
    #[serde(default)]
    pub clock_ahead: u32,
    /// True if directories list their names from the last to the first, in place of the seed's or the file system's order.
    #[serde(default)]
    pub reversed_dirs: bool,
}

impl Conditions {
    /// Most processors that can be visible.
    pub const MAX_PROCESSORS: u32 = 64;
}
