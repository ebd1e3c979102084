//! Errors of making a lock.

use std::path::PathBuf;

use silo_base::system::Arch;
use silo_base::timestamp;
use silo_fetch::error::Error as FetchError;
use silo_fetch::registry;
use silo_resolve::{keyring, packages, release, signature, solve};

use super::archives;

/// Error of making a lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An index could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No mirror has the suite.
    #[error("no mirror has the suite {suite}")]
    NoSuite {
        /// The suite.
        suite: String,
        /// The addresses that were tried.
        source: FetchError,
    },
    /// The keyring in this binary is broken.
    #[error("the archive keyring")]
    Keyring(#[from] keyring::Error),
    /// A signature is missing or wrong.
    #[error("InRelease of {suite}")]
    Signature {
        /// The suite.
        suite: String,
        /// The fault.
        source: signature::Error,
    },
    /// A signed index is invalid.
    #[error("InRelease of {suite}")]
    Release {
        /// The suite.
        suite: String,
        /// The fault.
        source: release::Error,
    },
    /// Resolving or reading an image failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The name of an image is invalid.
    #[error("image: \"{image}\": {what}")]
    Image {
        /// The name.
        image: String,
        /// The fault.
        what: String,
    },
    /// A mirror sent the index of another suite.
    #[error("the mirror sent the index of {got} instead of {suite}")]
    OtherSuite {
        /// The requested suite.
        suite: String,
        /// The suite of the index.
        got: String,
    },
    /// The index is expired: the mirror, or somebody between, may withhold updates.
    #[error("the index of {suite} expired at {until}: the mirror may withhold updates", until = timestamp::rfc3339(*until))]
    Expired {
        /// The suite.
        suite: String,
        /// The end of its validity.
        until: i64,
    },
    /// The index is older than the one of the last lock.
    #[error(
        "the index of {suite} from {got} is older than that of the last lock, {before}: the mirror may withhold updates",
        got = timestamp::rfc3339(*got), before = timestamp::rfc3339(*before)
    )]
    Older {
        /// The suite.
        suite: String,
        /// Its date.
        got: i64,
        /// The date of the last lock's index.
        before: i64,
    },
    /// The signed index does not list a package index.
    #[error("{suite} has no {path}; its components are {components}")]
    NotListed {
        /// The suite.
        suite: String,
        /// The path below the suite.
        path: String,
        /// The components of the suite.
        components: String,
    },
    /// An index could not be read or decompressed.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// An index could not be parsed.
    #[error("Packages of {suite} for {arch}")]
    Packages {
        /// The suite.
        suite: String,
        /// The architecture.
        arch: &'static str,
        /// The fault.
        source: packages::Error,
    },
    /// The packages cannot be installed together.
    #[error("no set of packages for {arch} satisfies the recipe")]
    Solve {
        /// The architecture.
        arch: Arch,
        /// The reason.
        source: solve::Error,
        /// The missing package and the other architecture that has it.
        only_on: Option<(String, Arch)>,
    },
    /// The key of one of the recipe's own archives is invalid.
    #[error("the key of {suite} in debian.sources")]
    Key {
        /// The suite.
        suite: String,
        /// The fault.
        source: keyring::Error,
    },
    /// An answer to a debconf question of a package that is not installed.
    #[error("debian.debconf answers a question of {owner}, and no package of the recipe needs {owner}")]
    Answer {
        /// The package.
        owner: String,
    },
    /// A local .deb is invalid.
    #[error(transparent)]
    Local(#[from] archives::Error),
}

impl Error {
    /// Returns the hint.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Fetch(error) if error.is_gone() => {
                Some("no mirror has an index of this suite: look at debian.suite in the recipe, or set another mirror in mirrors.debian of ~/.silo/silo.toml".to_owned())
            }
            Error::Fetch(error) => error.hint(),
            Error::Registry(error) => error.hint(),
            Error::Signature { .. } => {
                Some("the mirror may be broken or hostile; set another in mirrors.debian of ~/.silo/silo.toml".to_owned())
            }
            Error::Expired { .. } | Error::Older { .. } => Some(
                "set another mirror in mirrors.debian of ~/.silo/silo.toml; or mirrors.allowStale = true there, for a mirror or snapshot that is frozen on purpose"
                    .to_owned(),
            ),
            Error::NoSuite { .. } => Some("check that debian.suite of the recipe is a Debian release that the mirrors still have".to_owned()),
            Error::Solve { only_on: Some((name, arch)), .. } => {
                Some(format!("only {arch} has it: write \"{name} [{arch}]\" in the recipe to limit it to {arch}"))
            }
            Error::NotListed { .. } => Some("look at debian.components in the recipe".to_owned()),
            Error::Local(_) => Some("debian.debs names files below the recipe's directory".to_owned()),
            Error::Solve { arch, source: solve::Error::Unknown { name, architecture }, .. } if architecture != arch.name() => {
                Some(format!("Debian has no package {name} for {architecture}; check the name"))
            }
            Error::Solve { arch, source: solve::Error::Unknown { name, .. }, .. } => Some(format!(
                "Debian has no package {name} for {arch}; check the name, or write \"{name} [{}]\" if only the other architecture has it",
                archives::other_than(*arch)
            )),
            Error::Solve { .. } => Some("name other packages or versions, in silo.toml or in the recipe".to_owned()),
            _ => None,
        }
    }
}
