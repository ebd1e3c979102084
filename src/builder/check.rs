//! Reproducibility check: runs each step twice under different conditions, and reports paths that differ with the probable cause.
//!
//! The second run has other random numbers, processors, process ids, directory orders, umask and host name, and a clock on another day
//! ([`SecondRun`]). The process around it has another umask, time zone and locale, which the sandbox must hide.
//!
//! Every build has the same host name and umask. A step that depends on them runs a third time, with the usual ones and the other conditions
//! of the second run. A path that is equal then is no fault of the build, only a note.

use std::path::PathBuf;
use std::sync::Mutex;

use silo_launch::spec::{Conditions, Spec, VmFiles};
use silo_model::derivation::Repeats;
use silo_store::difference::Difference;

use super::cause::Cause;

/// Results of a reproducibility check.
#[derive(Debug)]
pub struct Check {
    /// A directory in a tmpfs for the second run's changes, if there is one.
    pub memory: Option<PathBuf>,
    /// The VM of the second run; `None` runs it natively.
    pub machine: Option<VmFiles>,
    /// The verdict on paths that depend on conditions that every build fixes.
    pub verdict: Verdict,
    /// Names of the steps that ran twice.
    pub ran: Mutex<Vec<String>>,
    /// Paths that differ.
    pub findings: Mutex<Vec<Finding>>,
}

/// The verdict on paths that depend on the host name or the umask alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are notes.
    Note,
    /// They are failures like all others.
    Fail,
}

/// A path that differs between the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The step.
    pub step: String,
    /// The path and the difference.
    pub difference: Difference,
    /// The package that ships the path, or whose script names it.
    pub package: Option<String>,
    /// The probable cause.
    pub cause: Cause,
    /// True if the path depends on the host name or the umask alone, which every build fixes.
    pub is_note: bool,
}

impl Check {
    /// Prepares a check; `memory` is a directory in a tmpfs, if the host has one.
    pub fn new(memory: Option<PathBuf>) -> Check {
        Check { memory, machine: None, verdict: Verdict::Note, ran: Mutex::default(), findings: Mutex::default() }
    }

    /// Adds a step with its findings.
    pub(super) fn add(&self, step: &str, found: Vec<Finding>) {
        self.ran.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(step.to_owned());
        self.findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(found);
    }
}

/// A run of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhichRun {
    /// The run of an ordinary build.
    First,
    /// The second run of a check.
    Second,
    /// The third one, with the usual host name and umask.
    Third,
}

/// Conditions of the second run of a step.
pub(super) struct SecondRun;

impl SecondRun {
    /// The host name of every sandbox, and so of every build.
    pub const USUAL_HOST_NAME: &'static str = "silo";
    /// Its host name.
    pub const HOST_NAME: &'static str = "elsewhere";
    /// The process ids of its step are larger; those of a first run are smaller.
    pub const LAST_PID: u32 = 20_000;
    /// The clock is ahead by 400 days and 7:13:17 hours, so the year, the month, the weekday and the time of day differ.
    pub const CLOCK_AHEAD: u32 = 400 * 86_400 + 7 * 3_600 + 13 * 60 + 17;
    /// The umask of a command step's second run. One with fewer rights would make steps fail that run programs as several users.
    pub const UMASK: u32 = 0o002;
    /// The umask of every other run.
    pub const USUAL_UMASK: u32 = 0o022;

    /// Returns the conditions of a step. A step with a seed has one processor and dpkg's own umask in every build. With a network the clock is
    /// true, because servers' certificates expire. The inputs that a command step repeats are not varied.
    pub fn conditions(spec: &Spec, repeats: Repeats) -> Conditions {
        let varies = repeats == Repeats::Nothing;
        let has_seed = spec.seed.is_some() && varies;
        let has_true_time = spec.network.is_some() || repeats == Repeats::Machine;
        Conditions {
            umask: if has_seed { None } else { Some(SecondRun::UMASK) },
            processors: varies.then_some(if has_seed { 2 } else { 1 }),
            // Random numbers depend on the ids of processes.
            last_pid: varies.then_some(SecondRun::LAST_PID),
            clock_ahead: if has_true_time { 0 } else { SecondRun::CLOCK_AHEAD },
            reversed_dirs: varies,
        }
    }
}
