//! The fields of each kind of derivation.

use std::collections::BTreeMap;
use std::fmt;

use silo_store::digest::{Digest, LayerId};

use silo_base::grant::Grant;
use silo_base::system::Arch;

/// The id of a derivation: the sha-256 of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvId(pub(super) Digest);

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

/// One build step with all values that affect its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// Unpacks one .deb into a layer, without running any code of it.
    Package(Package),
    /// Runs the packages' maintainer scripts and captures their changes.
    Configure(Configure),
    /// Writes the dpkg database of packages without scripts; runs no code.
    Database(Database),
    /// Unpacks one layer of a foreign image, without running any code of it.
    Blob(Blob),
    /// Runs a command and captures its changes.
    Step(Step),
    /// Combines layers and a run configuration.
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
    /// The digest of the downloaded layer.
    pub blob: Digest,
    /// Its digest when decompressed.
    pub diff: Digest,
    /// The layers below, lowest first, if its meaning depends on them. The digest of nothing stands for none.
    pub over: Vec<LayerId>,
}

/// Runs maintainer scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configure {
    /// The architecture of the scripts.
    pub arch: Arch,
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The layers of the scripts' root, lowest first.
    pub layers: Vec<LayerId>,
    /// The .debs that dpkg itself unpacks in the step, in order.
    pub debs: Vec<Digest>,
    /// Answers to the packages' questions in the format of debconf-set-selections(1), sorted.
    pub answers: Vec<String>,
}

/// Writes a dpkg database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The layers with the databases to extend: one, or two if a tier was configured in two halves.
    pub configured: Vec<LayerId>,
    /// The build's SOURCE_DATE_EPOCH, the mtime of the files.
    pub epoch: i64,
    /// The layers of the packages to add, sorted by package name.
    pub layers: Vec<LayerId>,
    /// With two databases, the layers of the packages with triggers to be recorded again.
    pub triggers: Vec<LayerId>,
}

/// Runs a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The architecture of the command.
    pub arch: Arch,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The layers of its root, lowest first.
    pub layers: Vec<LayerId>,
    /// Its network grants, sorted.
    pub network: Vec<Grant>,
    /// True if it can read the project's files. They are not hashed, so the lock pins its result.
    pub project: bool,
    /// The inputs of chance that are the same in each run.
    pub repeats: Repeats,
}

impl Step {
    /// Returns true if unhashed input can change the result, so that the lock must pin it.
    pub fn is_fixed_output(&self) -> bool {
        self.project || !self.network.is_empty()
    }
}

/// The inputs of chance that are the same in each run of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Repeats {
    /// None of them.
    #[default]
    Nothing,
    /// Random numbers, addresses, the number of processors, and the order of directories.
    Random,
    /// Those, the clock, and the processor: the step runs in a VM that counts instructions in place of time.
    Machine,
}

/// Assembles an image.
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
    /// Default arguments of a run.
    pub arguments: Option<Vec<String>>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The tiers of the .debs, in the same order.
    pub tiers: Vec<String>,
    /// The steps, each as the id of its derivation without layers.
    pub steps: Vec<DrvId>,
    /// The outputs of steps according to the lock.
    pub outputs: BTreeMap<Digest, Digest>,
    /// The key of the project whose files the steps can read, if any can.
    pub project: Option<String>,
    /// The answers to the packages' questions, sorted.
    pub answers: Vec<String>,
}
