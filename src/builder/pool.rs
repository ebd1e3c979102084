//! A pool of machines that launch steps.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use silo_base::system::Arch;
use silo_store::digest::LayerId;

/// A layer of the root of a step.
pub struct JobLayer<'a> {
    /// The layer, which is the digest of its archive.
    pub layer: LayerId,
    /// Bytes of its archive.
    pub size: u64,
    /// Writes the archive.
    pub write: WriteArchive<'a>,
}

/// Writes an archive.
pub type WriteArchive<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + Sync + 'a>;

/// A step to launch away.
pub struct Job<'a> {
    /// The name of the step.
    pub name: &'a str,
    /// The silo binary of the worker.
    pub program: &'a Path,
    /// The request.
    pub request: Vec<u8>,
    /// The layers of the root, lowest first.
    pub layers: Vec<JobLayer<'a>>,
    /// Further files, by path in the action's directory.
    pub files: Vec<(String, PathBuf)>,
    /// An empty directory, for the results and for other files.
    pub dir: &'a Path,
    /// Limits on the results, by path in the action's directory; each becomes a file of its name in `dir`.
    pub results: Vec<(String, u64)>,
    /// Receives lines about the progress.
    pub say: &'a (dyn Fn(String) + Sync),
    /// Receives warnings.
    pub warn: &'a (dyn Fn(String) + Sync),
    /// The machine that must run it, as a number of [`Pool::places`]; otherwise the pool chooses.
    pub place: Option<usize>,
    /// Set when the user stops the build.
    pub stop: &'a AtomicBool,
}

/// The reason why a step did not run away.
#[derive(Debug)]
pub enum NotRun {
    /// The user stopped the build.
    Stopped,
    /// No worker of the pool can run it; it runs here.
    Unfit(String),
    /// The pool failed.
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

/// A pool of machines.
pub trait Pool: Send + Sync {
    /// Runs a step, and returns the name of its worker. A file that the worker did not write is missing.
    fn run(&self, job: &Job<'_>) -> Result<String, NotRun>;

    /// Writes the archive of a layer, of which the number of bytes is known, from the pool's store. Returns false if the pool does not have it.
    /// An archive with another digest is an error.
    fn fetch(&self, layer: (LayerId, u64), out: &mut dyn Write, stop: &AtomicBool) -> Result<bool, NotRun>;

    /// Returns the time that an action may run.
    fn limit(&self) -> Duration;

    /// Returns the number of steps that run at the same time.
    fn jobs(&self) -> usize;

    /// Returns the architecture of the machines.
    fn arch(&self) -> Arch;

    /// Returns the names of the machines, or of the engine that chooses one.
    fn places(&self) -> Vec<String>;

    /// Describes a worker by its name, with the address of its engine.
    fn describe(&self, worker: &str) -> String;
}
