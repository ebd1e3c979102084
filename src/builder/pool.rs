//! A pool of machines that launch steps, and the steps that run here beside it.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use silo_base::event::{Event, Sink};
use silo_base::system::Arch;
use silo_store::digest::LayerId;

use super::error::Error;

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
    pub results: [(&'static str, u64); 3],
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

    /// Returns the number of steps that run at the same time.
    fn jobs(&self) -> usize;

    /// Returns the architecture of the machines.
    fn arch(&self) -> Arch;

    /// Returns the names of the machines, or of the engine that chooses one.
    fn places(&self) -> Vec<String>;
}

/// Interval at which a step that waits for its place looks whether the user stopped the build.
const LOOK: Duration = Duration::from_millis(50);

/// The place of the steps of a build: a pool runs what it can, and this machine the rest, few steps at the same time.
pub struct Away {
    pool: Box<dyn Pool>,
    /// Percentage of steps that run here too, as a check.
    check: u8,
    /// True once a worker could not run a step: all others run here.
    is_given_up: AtomicBool,
    /// Number of steps that run here.
    here: Mutex<usize>,
    changed: Condvar,
}

/// The place of a step that runs here.
pub(super) struct Here<'a>(&'a Away);

impl Away {
    /// Returns the place of steps with a pool; of the steps that it runs, `check` percent run here too.
    pub fn new(pool: Box<dyn Pool>, check: u8) -> Away {
        Away { pool, check, is_given_up: AtomicBool::new(false), here: Mutex::new(0), changed: Condvar::new() }
    }

    /// Returns the pool, unless a worker could not run a step.
    pub(super) fn usable(&self) -> Option<&dyn Pool> {
        (!self.is_given_up.load(Ordering::Relaxed)).then_some(&*self.pool)
    }

    /// Returns true if the pool runs steps of an architecture.
    pub(super) fn runs(&self, arch: Arch) -> bool {
        self.usable().is_some_and(|pool| pool.arch() == arch)
    }

    /// Returns the number of steps at the same time.
    pub(super) fn jobs(&self) -> usize {
        self.pool.jobs()
    }

    /// Chooses at random whether a step runs here too.
    pub(super) fn is_checked(&self) -> bool {
        // Each state has keys of its own, which a worker cannot guess.
        self.check > 0 && RandomState::new().hash_one(0) % 100 < u64::from(self.check)
    }

    /// Waits until a step may run here.
    pub(super) fn here(&self, jobs: usize, stop: &AtomicBool) -> Result<Here<'_>, Error> {
        let mut running = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= jobs.max(1) {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            running = self.changed.wait_timeout(running, LOOK).map_or_else(|poisoned| poisoned.into_inner().0, |(running, _)| running);
        }
        *running += 1;
        Ok(Here(self))
    }

    /// Warns once that no worker can run steps. From then on they run here.
    pub(super) fn give_up(&self, sink: Sink<'_>, name: &str, why: &str) {
        if !self.is_given_up.swap(true, Ordering::Relaxed) {
            sink(Event::Warning { text: format!("{name}: {why}; this step and the next ones run here") });
        }
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        *self.0.here.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_one();
    }
}
