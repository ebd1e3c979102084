//! Derivations: build steps as data, named by the hash of their canonical encoding.
//!
//! A derivation refers to its inputs by what they *are* (the digest of a file, the id of a layer),
//! never by how they were made, so an input that rebuilds to the same bytes stops the rebuild there.
//! Everything that can change the result is a field; nothing else is. `docs/derivation.md` is the
//! encoding's page, and `tests/golden/derivation/` holds it still.

mod encode;

use std::fmt;

use silo_store::digest::{Digest, LayerId};

use crate::system::Arch;

/// The name of a derivation: the sha-256 of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvId(Digest);

impl DrvId {
    /// Returns the digest.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for DrvId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One build step with all that its result depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// Unpacks one .deb into a layer, running nothing.
    Package(Package),
    /// Runs the packages' maintainer scripts and keeps what they change.
    Configure(Configure),
    /// Writes the dpkg database of packages that have no scripts, running nothing.
    Database(Database),
    /// Unpacks one layer of somebody else's image, running nothing.
    Blob(Blob),
    /// Runs a command and keeps what it changes.
    Step(Step),
    /// Puts layers and a run configuration together.
    Image(Image),
}

/// Unpacks one .deb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The .deb's digest.
    pub deb: Digest,
}

/// Unpacks one layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The layer's digest as it is fetched.
    pub blob: Digest,
    /// Its digest when decompressed.
    pub diff: Digest,
    /// The layers below, lowest first, where what it means depends on them.
    pub over: Vec<LayerId>,
}

/// Runs maintainer scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configure {
    /// The architecture that the scripts run on.
    pub arch: Arch,
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The layers of the root that the scripts see, lowest first.
    pub layers: Vec<LayerId>,
    /// The .debs that dpkg itself unpacks in the step, in order.
    pub debs: Vec<Digest>,
    /// The answers to the packages' questions, as debconf-set-selections(1) takes them, sorted.
    pub answers: Vec<String>,
}

/// Writes a dpkg database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The layers that hold the databases to add to: one, or two where a tier was configured in halves.
    pub configured: Vec<LayerId>,
    /// The build's SOURCE_DATE_EPOCH, which dates the files.
    pub epoch: i64,
    /// The layers of the packages to add, in the order of their names.
    pub layers: Vec<LayerId>,
    /// Where there are two databases, the layers of the packages whose triggers are noted anew.
    pub triggers: Vec<LayerId>,
}

/// Runs a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The architecture that it runs on.
    pub arch: Arch,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment, as `NAME=value`, sorted.
    pub env: Vec<String>,
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The layers of the root that it sees, lowest first.
    pub layers: Vec<LayerId>,
    /// What it may reach, sorted.
    pub network: Vec<String>,
    /// Whether it sees the project's files. They are not hashed, so its result is pinned by the lock.
    pub project: bool,
}

impl Step {
    /// Says whether something that is not hashed can change the result, which the lock therefore pins.
    pub fn is_fixed_output(&self) -> bool {
        self.project || !self.network.is_empty()
    }
}

/// Puts an image together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The architecture.
    pub arch: Arch,
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The .debs, sorted by package name.
    pub debs: Vec<Digest>,
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Its arguments where a run has none.
    pub arguments: Option<Vec<String>>,
    /// The environment, as `NAME=value`, sorted.
    pub env: Vec<String>,
    /// The tiers of the .debs, in the same order.
    pub tiers: Vec<String>,
    /// The steps, each as the derivation that it would be on no layers at all.
    pub steps: Vec<DrvId>,
    /// What the lock says that steps came to, as `derivation=layer`, sorted.
    pub outputs: Vec<String>,
    /// The answers to the packages' questions, sorted.
    pub answers: Vec<String>,
}

impl Blob {
    /// Returns the word for a layer that lies in an image's base, among the tiers of others.
    pub fn tier() -> String {
        format!("image {}", encode::BLOB_RULES)
    }
}

impl Derivation {
    /// Returns the derivation's canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode::encode(self)
    }

    /// Returns the derivation's name.
    pub fn id(&self) -> DrvId {
        DrvId(Digest::of(&self.encode()))
    }
}
