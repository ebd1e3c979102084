//! The places of the steps of a build: a pool of machines, and this machine beside it.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use silo_base::event::{Event, Sink};
use silo_base::home::Home;
use silo_base::system::Arch;

use super::error::Error;
use super::known_layers::KnownLayers;
use super::pool::Pool;

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
    /// The layers that the pool's store has.
    pub(super) known: KnownLayers,
}

/// The place of a step that runs here.
pub(super) struct Here<'a>(&'a Away);

impl Away {
    /// Returns the place of steps with a pool; of the steps that it runs, `check` percent run here too. The home has the records of the
    /// layers that the pool's store has.
    pub fn new(pool: Box<dyn Pool>, check: u8, home: &Home) -> Away {
        let known = KnownLayers::new(home.remote_layers());
        Away { pool, check, is_given_up: AtomicBool::new(false), here: Mutex::new(0), changed: Condvar::new(), known }
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

    /// Describes a worker by its name, with the address of its engine.
    pub(super) fn describe(&self, worker: &str) -> String {
        self.pool.describe(worker)
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
