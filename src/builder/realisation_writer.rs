//! Writes realisations to the store in batches, because each write syncs the disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use silo_store::digest::{Digest, LayerId};
use silo_store::flock::{BuildLock, SharedLock};
use silo_store::layout::Store;
use silo_store::path_error::PathError;
use silo_store::realisation;

/// Interval of the writes; a killed build loses the realisations of the last interval, and makes them again.
const BETWEEN: Duration = Duration::from_millis(700);

/// Unwritten realisations, each with the lock that keeps other processes from making the same layer.
#[derive(Debug, Default)]
pub struct RealisationWriter(Mutex<Vec<Note>>);

#[derive(Debug)]
struct Note {
    drv: Digest,
    layer: LayerId,
    _lock: Option<BuildLock>,
}

impl RealisationWriter {
    /// Adds a realisation; its layer is in the store.
    pub(super) fn add(&self, drv: Digest, layer: LayerId, lock: Option<BuildLock>) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(Note { drv, layer, _lock: lock });
    }

    /// Looks up an unwritten realisation.
    pub(super) fn get(&self, drv: &Digest) -> Option<LayerId> {
        let notes = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        notes.iter().find(|note| note.drv == *drv).map(|note| note.layer)
    }

    /// Writes all realisations to the store, after syncing their layers to disk.
    pub(super) fn record(&self, store: &Store, lock: &SharedLock) -> Result<(), PathError> {
        let noted = std::mem::take(&mut *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        if noted.is_empty() {
            return Ok(());
        }
        let pairs: Vec<(Digest, LayerId)> = noted.iter().map(|note| (note.drv, note.layer)).collect();
        let done = realisation::put_many(store, lock, &pairs);
        // The locks are released only now, so that a waiting process finds the written realisation.
        if done.is_err() {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(noted);
        }
        done
    }

    /// Writes realisations at intervals until `over` is set.
    pub(super) fn record_now_and_then(&self, store: &Store, lock: &SharedLock, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            thread::park_timeout(BETWEEN);
            // Failed writes are tried again at the end of the build, which reports the error.
            drop(self.record(store, lock));
        }
    }
}
