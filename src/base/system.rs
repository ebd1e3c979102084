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

    /// Returns the name that programs know it by, as `uname -m` prints it.
    pub fn machine(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64",
            Arch::Arm64 => "aarch64",
        }
    }

    /// Returns the platform, as OCI writes it: `linux/arm64`.
    pub fn platform(self) -> String {
        format!("{OS}/{}", self.name())
    }

    /// Parses a platform, `linux/arm64`, or an architecture alone.
    pub fn of_platform(text: &str) -> Result<Arch, UnknownPlatform> {
        let name = match text.split_once('/') {
            Some((OS, name)) => name,
            Some(_) => return Err(UnknownPlatform(text.to_owned())),
            None => text,
        };
        name.parse().map_err(|_| UnknownPlatform(text.to_owned()))
    }

    /// Returns the foreign architectures of packages that a root may have, by Debian's names: those whose programs this architecture's
    /// kernels run, and the other architecture, for files that no program of the root executes.
    pub fn foreign(self) -> &'static [&'static str] {
        match self {
            Arch::Amd64 => &["i386", "arm64"],
            Arch::Arm64 => &["armhf", "armel", "amd64"],
        }
    }
}

/// The operating system of all images, by OCI's name.
const OS: &str = "linux";

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown platform.
#[derive(Debug, thiserror::Error)]
#[error("unknown platform \"{0}\"; known are linux/amd64 and linux/arm64")]
pub struct UnknownPlatform(String);

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

#[cfg(test)]
mod tests {
    use super::Arch;

    #[test]
    fn platforms_are_read_with_and_without_their_system() {
        for (text, expect) in [
            ("linux/arm64", Some(Arch::Arm64)),
            ("arm64", Some(Arch::Arm64)),
            ("linux/amd64", Some(Arch::Amd64)),
            ("amd64", Some(Arch::Amd64)),
            ("", None),
            ("linux/", None),
            ("/arm64", None),
            ("darwin/arm64", None),
            ("linux/arm64/v8", None),
            ("linux/arm", None),
            ("aarch64", None),
            ("Linux/ARM64", None),
        ] {
            assert_eq!(Arch::of_platform(text).ok(), expect, "{text}");
        }
        let error = Arch::of_platform("linux/arm").expect_err("32 bits").to_string();
        assert!(Arch::ALL.iter().all(|arch| error.contains(&arch.platform())), "{error}");
    }
}
