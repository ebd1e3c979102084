//! The environment of a push or pull, and work that is shared by a few threads.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use silo_store::flock::SharedLock;
use silo_store::layout::Store;

use silo_base::event::{self, Activity, Sink};
use silo_base::home::Home;
use silo_base::thread;
use silo_fetch::registry::{self, repository::Repository};
use silo_fetch::transport::Transport;
use silo_model::oci::location::Location;

use crate::error::Error;

/// The environment of a push or pull.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The home.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// The permission to write to the store.
    pub lock: &'a SharedLock,
    /// The HTTP client.
    pub transport: &'a Transport,
    /// The user's home directory, which holds the logins for registries.
    pub user_home: &'a Path,
    /// Number of parallel transfers.
    pub jobs: usize,
    /// Receives progress events.
    pub sink: Sink<'a>,
    /// Set when the user stops the command.
    pub stop: &'a AtomicBool,
}

impl<'a> Context<'a> {
    /// Returns the repository at a location.
    pub fn repository(&self, location: Location) -> Repository<'a> {
        let context = registry::Context { transport: self.transport, user_home: self.user_home, cancel: self.stop };
        Repository::new(context, location)
    }

    pub(crate) fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Runs `work` as one activity.
    pub(crate) fn activity<T>(&self, kind: Activity, name: &str, total: Option<u64>, work: impl FnOnce(u64) -> T) -> T {
        event::activity(self.sink, kind, name, total, work)
    }

    /// Calls `work` for each item on a few threads, and returns the results in order. The first error ends all of them.
    pub(crate) fn each<T: Sync, R: Send>(&self, items: &[T], work: impl Fn(&T) -> Result<R, Error> + Sync) -> Result<Vec<R>, Error> {
        self.each_on(self.jobs, items, work)
    }

    /// Like [`Context::each`], on so many threads.
    pub(crate) fn each_on<T: Sync, R: Send>(
        &self,
        threads: usize,
        items: &[T],
        work: impl Fn(&T) -> Result<R, Error> + Sync,
    ) -> Result<Vec<R>, Error> {
        let next = AtomicUsize::new(0);
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let first_error = || failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let run = || {
            let mut done = Vec::new();
            while first_error().is_none() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(at) else { break };
                match self.check_stop().and_then(|()| work(item)) {
                    Ok(result) => done.push((at, result)),
                    Err(error) => drop(first_error().get_or_insert(error)),
                }
            }
            done
        };
        let count = threads.clamp(1, silo_fetch::download::MAX_JOBS).min(items.len());
        let mut all: Vec<(usize, R)> = thread::together(count, run).into_iter().flatten().collect();
        if let Some(error) = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            return Err(error);
        }
        all.sort_by_key(|(at, _)| *at);
        Ok(all.into_iter().map(|(_, result)| result).collect())
    }
}
