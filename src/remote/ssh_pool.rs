//! A pool of machines that are reached over ssh.
//!
//! Each machine runs as many steps at the same time as it has processors, or as the settings say. Its connections stay open for later steps.
//! A machine that fails is left out for the rest of the command; its steps run on the others.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use silo_base::system::Arch;
use silo_build::pool::{Job, NotRun, Pool};
use silo_store::digest::LayerId;

use crate::error::Error;
use crate::execution::Limits;
use crate::ssh_session::{Session, Way};

/// Steps at the same time on a machine that has not been asked yet.
const UNKNOWN: usize = 1;
/// Steps that wait for machines at the same time, for each machine, if the settings do not tell.
const WAITING: usize = 8;
/// Interval of the looks at the stop flag.
const LOOK: Duration = Duration::from_millis(50);

/// Machines, as the user's settings name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSettings {
    /// The machines.
    pub ways: Vec<Way>,
    /// Their architecture.
    pub arch: Arch,
    /// Steps at the same time on each.
    pub jobs: Option<usize>,
    /// Time limits of a step.
    pub limits: Limits,
}

/// A pool of machines; the connections are opened by the steps.
pub struct SshWorkers {
    settings: SshSettings,
    machines: Mutex<Vec<Machine>>,
    changed: Condvar,
}

/// The state of a machine.
struct Machine {
    /// Steps that run there.
    running: usize,
    /// The most at the same time.
    most: usize,
    /// Open connections that are not in use.
    idle: Vec<Session>,
    /// The reason why it is left out.
    refused: Option<String>,
}

/// A place on a machine.
struct Taken<'a> {
    pool: &'a SshWorkers,
    number: usize,
}

impl SshWorkers {
    /// Returns a pool that has asked nothing yet.
    pub fn new(settings: SshSettings) -> SshWorkers {
        let most = settings.jobs.unwrap_or(UNKNOWN).max(1);
        let machines = settings.ways.iter().map(|_| Machine { running: 0, most, idle: Vec::new(), refused: None }).collect();
        SshWorkers { settings, machines: Mutex::new(machines), changed: Condvar::new() }
    }

    fn machines(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place on the machine with the fewest steps, or on the one that is asked for.
    fn take(&self, only: Option<usize>, stop: &AtomicBool) -> Result<Taken<'_>, NotRun> {
        let until = Instant::now() + self.settings.limits.queue;
        let mut machines = self.machines();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(NotRun::Stopped);
            }
            let asked = |number: &usize| only.is_none_or(|only| only == *number);
            let usable: Vec<usize> = (0..machines.len()).filter(asked).filter(|number| machines[*number].refused.is_none()).collect();
            if usable.is_empty() {
                let named = self.settings.ways.iter().zip(&*machines).filter_map(|(way, machine)| Some((way, machine.refused.as_ref()?)));
                let all: Vec<String> = named.map(|(way, why)| format!("{}: {why}", way.host)).collect();
                return Err(NotRun::Unfit(format!("no machine is left ({})", all.join("; "))));
            }
            let free = usable.into_iter().filter(|number| machines[*number].running < machines[*number].most);
            if let Some(number) = free.min_by_key(|number| machines[*number].running) {
                machines[number].running += 1;
                return Ok(Taken { pool: self, number });
            }
            if Instant::now() > until {
                let seconds = self.settings.limits.queue.as_secs();
                return Err(NotRun::Unfit(format!("no machine had a place for the step within {seconds} s")));
            }
            machines = self.changed.wait_timeout(machines, LOOK).map_or_else(|poisoned| poisoned.into_inner().0, |(machines, _)| machines);
        }
    }

    /// Runs a step on a machine.
    fn run_on(&self, taken: &Taken<'_>, job: &Job<'_>) -> Result<String, Error> {
        let idle = self.machines()[taken.number].idle.pop();
        let way = &self.settings.ways[taken.number];
        let was_open = idle.is_some();
        let mut session = match idle {
            Some(session) => session,
            None => self.connect(taken.number, job.stop)?,
        };
        match session.run(job, self.settings.limits.run) {
            Ok(()) => {}
            // A connection that was not in use may have been closed in the meantime.
            Err(Error::Host { .. }) if was_open && !job.stop.load(Ordering::Relaxed) => {
                session = self.connect(taken.number, job.stop)?;
                session.run(job, self.settings.limits.run)?;
            }
            Err(error) => return Err(error),
        }
        self.machines()[taken.number].idle.push(session);
        Ok(way.host.clone())
    }

    fn connect(&self, number: usize, stop: &AtomicBool) -> Result<Session, Error> {
        let session = Session::connect(&self.settings.ways[number], self.settings.arch, stop)?;
        if self.settings.jobs.is_none() {
            let most = session.hello.processors.max(1);
            self.machines()[number].most = most;
            self.changed.notify_all();
        }
        Ok(session)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.pool.machines()[self.number].running -= 1;
        self.pool.changed.notify_all();
    }
}

impl Pool for SshWorkers {
    fn run(&self, job: &Job<'_>) -> Result<String, NotRun> {
        loop {
            let taken = self.take(job.place, job.stop)?;
            let error = match self.run_on(&taken, job) {
                Ok(worker) => return Ok(worker),
                Err(error) => error,
            };
            if job.stop.load(Ordering::Relaxed) {
                return Err(NotRun::Stopped);
            }
            let Error::Host { what, .. } = &error else { return Err(NotRun::Failed(Box::new(error))) };
            let mut machines = self.machines();
            let machine = &mut machines[taken.number];
            machine.idle.clear();
            let is_first = machine.refused.replace(what.clone()).is_none();
            drop(machines);
            self.changed.notify_all();
            if is_first && job.place.is_none() {
                (job.warn)(format!("{error}; it is left out"));
            }
        }
    }

    fn fetch(&self, _: (LayerId, u64), _: &mut dyn Write, _: &AtomicBool) -> Result<bool, NotRun> {
        // The machines keep layers for their own steps and hand none out.
        Ok(false)
    }

    fn limit(&self) -> Duration {
        self.settings.limits.run
    }

    fn jobs(&self) -> usize {
        self.settings.ways.len() * self.settings.jobs.unwrap_or(WAITING)
    }

    fn arch(&self) -> Arch {
        self.settings.arch
    }

    fn places(&self) -> Vec<String> {
        self.settings.ways.iter().map(|way| way.host.clone()).collect()
    }

    fn describe(&self, worker: &str) -> String {
        worker.to_owned()
    }
}
