//! What has been made and is to be recorded: several at a time, because each record takes a sync of the disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use silo_store::digest::{Digest, LayerId};
use silo_store::layout::Store;
use silo_store::lock::{BuildLock, SharedLock};
use silo_store::path_error::PathError;
use silo_store::realisation;

/// Between two records; a build that is killed makes again what it made in the last of these.
const BETWEEN: Duration = Duration::from_millis(700);

/// Realisations that are not recorded yet, each with the lock that keeps other processes from making the same.
#[derive(Debug, Default)]
pub struct Notes(Mutex<Vec<Note>>);

#[derive(Debug)]
struct Note {
    drv: Digest,
    layer: LayerId,
    _lock: Option<BuildLock>,
}

impl Notes {
    /// Notes that a derivation has become a layer, which is in the store.
    pub(super) fn add(&self, drv: Digest, layer: LayerId, lock: Option<BuildLock>) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(Note { drv, layer, _lock: lock });
    }

    /// Looks up what a derivation has become, as far as that is not recorded yet.
    pub(super) fn get(&self, drv: &Digest) -> Option<LayerId> {
        let notes = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        notes.iter().find(|note| note.drv == *drv).map(|note| note.layer)
    }

    /// Records what is noted, after all of it has reached the disk.
    pub(super) fn record(&self, store: &Store, lock: &SharedLock) -> Result<(), PathError> {
        let noted = std::mem::take(&mut *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        if noted.is_empty() {
            return Ok(());
        }
        let pairs: Vec<(Digest, LayerId)> = noted.iter().map(|note| (note.drv, note.layer)).collect();
        let done = realisation::put_many(store, lock, &pairs);
        // The locks go only now: whoever waited for one finds what was recorded.
        if done.is_err() {
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(noted);
        }
        done
    }

    /// Records beside the work until it is over.
    pub(super) fn record_now_and_then(&self, store: &Store, lock: &SharedLock, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            thread::park_timeout(BETWEEN);
            // What cannot be recorded now is tried again at the end, where it is told.
            drop(self.record(store, lock));
        }
    }
}
