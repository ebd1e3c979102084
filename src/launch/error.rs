//! Errors between a launch spec and a running program.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use silo_base::units;

/// The reason why a sandbox could not be started or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The calling process has more than one thread (see [`crate`]).
    #[error("launching needs a process with a single thread; this one has {count}")]
    Threads {
        /// The number of threads found.
        count: u64,
    },
    /// The spec contradicts itself or describes an impossible sandbox.
    #[error("launch spec: {reason}")]
    Spec {
        /// The reason, with the object's name.
        reason: String,
    },
    /// The spec's JSON could not be read or written.
    #[error("launch spec")]
    Json(#[from] serde_json::Error),
    /// The host port of a port forward cannot be listened on.
    #[error("port {port} of this machine: {source}")]
    Port {
        /// The port.
        port: u16,
        /// The kernel's error.
        source: io::Error,
    },
    /// A system call outside the sandbox failed.
    #[error("{step}: {source}")]
    Host {
        /// The failed step.
        step: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A step of the sandbox setup failed.
    #[error("setting up the sandbox: {step}: {source}")]
    Setup {
        /// The failed step, with the object's name.
        step: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The program is not in the image (exit code 127, as in a shell).
    #[error("{}: not found in the image", program.display())]
    NotFound {
        /// The program as the spec names it.
        program: PathBuf,
    },
    /// The program is in the image but cannot be executed (exit code 126, as in a shell).
    #[error("{}: cannot be executed: {source}", program.display())]
    NotExecutable {
        /// The program as the spec names it.
        program: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The sandbox's first process died before it reported the program's exit status.
    #[error("the sandbox died without an exit status (killed from outside, or out of memory)")]
    Lost,
    /// A virtual machine failed to start or ended without reporting the program's exit status.
    #[error("the virtual machine {what}")]
    Machine {
        /// The failure, as a predicate of "the virtual machine".
        what: String,
    },
    /// The user interrupted the launch before the program started.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// The signal.
        signal: i32,
    },
    /// The launch failed in a server process of ours (see [`super::reexec`]).
    #[error("{message}")]
    Elsewhere {
        /// The error message of that process.
        message: String,
    },
    /// The run reached one of its limits.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// This system has no native tier, and the spec has no VM.
    #[error("the native tier needs Linux, and there is no image for a virtual machine")]
    NoTier,
}

/// A limit of a run that silo itself enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Limit {
    /// Time.
    #[error("the run was ended at its time limit of {seconds} s (timeSeconds)")]
    Time {
        /// The limit.
        seconds: u64,
    },
    /// Data over the network, in both directions.
    #[error("the run was ended at its limit of {} over the network (networkMB)", units::size(*bytes))]
    Network {
        /// The limit.
        bytes: u64,
    },
}

impl Error {
    /// Returns the exit code for this error, as shells and `env` choose it.
    pub fn code(&self) -> u8 {
        match self {
            Error::NotFound { .. } => 127,
            Error::NotExecutable { .. } => 126,
            // As timeout(1).
            Error::Limit(_) => 124,
            Error::Threads { .. }
            | Error::Spec { .. }
            | Error::Json(_)
            | Error::Port { .. }
            | Error::Host { .. }
            | Error::Setup { .. }
            | Error::Lost
            | Error::Machine { .. }
            | Error::Interrupted { .. }
            | Error::Elsewhere { .. }
            | Error::NoTier => 125,
        }
    }
}

/// Adds the step's name to an error.
pub(crate) fn host<T, E: Into<std::io::Error>>(result: Result<T, E>, step: &str) -> Result<T, Error> {
    result.map_err(|error| Error::Host { step: step.to_owned(), source: error.into() })
}
