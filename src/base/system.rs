//! The supported architectures of images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A CPU architecture, by Debian's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86_64.
    Amd64,
    /// aarch64.
    Arm64,
}

impl Arch {
    /// All architectures in a lock.
    pub const ALL: [Arch; 2] = [Arch::Amd64, Arch::Arm64];

    /// Returns the architecture of this binary.
    pub fn host() -> Arch {
        if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 }
    }

    /// Returns Debian's name, which is also OCI's.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    /// Returns the foreign architectures whose programs this architecture's kernels run, by Debian's names.
    pub fn foreign(self) -> &'static [&'static str] {
        match self {
            Arch::Amd64 => &["i386"],
            Arch::Arm64 => &["armhf", "armel"],
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown architecture name.
#[derive(Debug, thiserror::Error)]
#[error("unknown architecture \"{0}\"; known are amd64 and arm64")]
pub struct UnknownArch(String);

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Arch, UnknownArch> {
        Arch::ALL.into_iter().find(|arch| arch.name() == text).ok_or_else(|| UnknownArch(text.to_owned()))
    }
}
