//! What can go wrong between a launch spec and a running program.

use std::io;
use std::path::PathBuf;

/// Why a sandbox could not be started or followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The calling process has more than one thread (see [`crate::launch`]).
    #[error("launching needs a process with a single thread, and this one has {count}")]
    Threads {
        /// The number of threads found.
        count: u64,
    },
    /// The spec contradicts itself or asks for what no sandbox can be.
    #[error("launch spec: {reason}")]
    Spec {
        /// What is wrong with it, naming the object.
        reason: String,
    },
    /// The spec's JSON could not be read or written.
    #[error("launch spec")]
    Json(#[from] serde_json::Error),
    /// A port of this machine cannot be listened at.
    #[error("port {port} of this machine: {source}")]
    Port {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call outside the sandbox failed.
    #[error("{step}: {source}")]
    Host {
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A step of making the sandbox failed.
    #[error("making the sandbox: {step}: {source}")]
    Setup {
        /// What was being done, naming the object.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program is not in the image (a shell says 127).
    #[error("{}: not found in the image", program.display())]
    NotFound {
        /// The program as the spec names it.
        program: PathBuf,
    },
    /// The program is in the image and cannot be executed (a shell says 126).
    #[error("{}: cannot be executed: {source}", program.display())]
    NotExecutable {
        /// The program as the spec names it.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The sandbox's first process died before it could say how the program ended.
    #[error("the sandbox ended without saying how (killed from outside, or out of memory)")]
    Lost,
    /// A virtual machine ended, or never began, without saying how its program ended.
    #[error("the virtual machine {what}")]
    Machine {
        /// What became of it.
        what: String,
    },
    /// The user wanted to stop before there was a program to tell.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// The signal.
        signal: i32,
    },
    /// A launch that another process of ours did for this one failed there.
    #[error("{message}")]
    Elsewhere {
        /// What it said.
        message: String,
    },
    /// This system has no native tier, and no machine was named.
    #[error("the native tier needs Linux, and there is nothing yet to make a machine of")]
    NoTier,
}

impl Error {
    /// Returns the exit code for a command line that ends with this error, as shells and `env` choose it.
    pub fn code(&self) -> u8 {
        match self {
            Error::NotFound { .. } => 127,
            Error::NotExecutable { .. } => 126,
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
