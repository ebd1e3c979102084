//! Where a program's streams lead, found out before there is a sandbox.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::termios::{Termios, Winsize, isatty, tcgetattr, tcgetwinsize};

use super::system;
use crate::launch::error::Error;
use crate::launch::spec::Stdio;

/// Where the program's streams lead.
pub enum Streams {
    /// To the caller's own.
    Inherited,
    /// To a terminal of its own.
    Terminal {
        /// The settings of the caller's terminal.
        settings: Box<Termios>,
        /// The size of the caller's terminal.
        size: Winsize,
        /// Whether errors go there, too: not when the caller sent them elsewhere.
        errors_too: bool,
    },
    /// To a file.
    Log {
        /// The file, for output and errors.
        log: OwnedFd,
        /// For input.
        null: OwnedFd,
    },
    /// To descriptors of silo's own.
    Given {
        /// For input.
        input: OwnedFd,
        /// For output.
        output: OwnedFd,
        /// For errors.
        errors: OwnedFd,
    },
}

/// Fails with the step's name.
pub fn host<T, E: Into<std::io::Error>>(result: Result<T, E>, step: &str) -> Result<T, Error> {
    result.map_err(|error| Error::Host { step: step.to_owned(), source: error.into() })
}

/// Finds out where a program's streams lead.
pub fn streams(stdio: &Stdio) -> Result<Streams, Error> {
    match stdio {
        Stdio::Log { path } => {
            let step = format!("opening {}", path.display());
            let append = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
            let log = host(open(path, append, Mode::from_raw_mode(0o600)), &step)?;
            let read = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = host(open("/dev/null", read, Mode::empty()), "opening /dev/null")?;
            Ok(Streams::Log { log, null })
        }
        Stdio::Auto => {
            let [input, output, errors] = standard();
            if isatty(input) && isatty(output) {
                let settings = Box::new(host(tcgetattr(input), "reading the terminal's settings")?);
                let size = host(tcgetwinsize(output), "reading the terminal's size")?;
                return Ok(Streams::Terminal { settings, size, errors_too: isatty(errors) });
            }
            refuse_directories()?;
            Ok(Streams::Inherited)
        }
    }
}

/// A directory as a stream would be a door into the host's file system (`openat(0, "..")`).
fn refuse_directories() -> Result<(), Error> {
    for (name, stream) in ["input", "output", "errors"].iter().zip(standard()) {
        let stat = host(fstat(stream), &format!("looking at the standard {name}"))?;
        if system::is_path_only(stream) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::Spec { reason: format!("the standard {name} is a directory") });
        }
    }
    Ok(())
}

fn standard() -> [BorrowedFd<'static>; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
}
