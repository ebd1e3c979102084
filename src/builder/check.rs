//! Reproducibility check: runs each step twice under different conditions, and reports paths that differ with the probable cause.
//!
//! The second run has one processor and another umask, time zone and host locale. It runs later, and its changes are in a tmpfs, where
//! directories list in another order. Conditions that the sandbox hides cannot affect a step; those that it cannot hide must not.

use std::path::PathBuf;
use std::sync::Mutex;

use silo_store::difference::Difference;

/// Results of a reproducibility check.
#[derive(Debug)]
pub struct Check {
    /// A directory in a tmpfs for the second run's changes, if there is one.
    pub memory: Option<PathBuf>,
    /// Names of the steps that ran twice.
    pub ran: Mutex<Vec<String>>,
    /// Paths that differ.
    pub findings: Mutex<Vec<Finding>>,
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
    pub cause: &'static str,
}

impl Check {
    /// Prepares a check; `memory` is a directory in a tmpfs, if the host has one.
    pub fn new(memory: Option<PathBuf>) -> Check {
        Check { memory, ran: Mutex::default(), findings: Mutex::default() }
    }
}
