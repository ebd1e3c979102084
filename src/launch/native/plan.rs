//! What a launch needs to know of the host, gathered before the sandbox's first process exists.

use std::fs;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::termios::{Termios, Winsize, isatty, tcgetattr, tcgetwinsize};

use silo_init::agent::Layout;

use super::cgroup::Cgroup;
use super::outlet;
use super::program::{self, Program};
use super::sys::SignalSet;
use crate::launch::error::Error;
use crate::launch::spec::{Identity, Spec, Stdio};

/// Everything that PID 1 inherits with its copy of memory.
pub struct Plan {
    /// The caller's user.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The user and group as which the caller appears inside.
    pub inside: (u32, u32),
    /// Where the kernel keeps this process's arguments and environment.
    pub strings: Range<usize>,
    /// The program, ready for `execve`.
    pub program: Program,
    /// Where its streams lead.
    pub streams: Streams,
    /// Its cgroup, where one can be made.
    pub cgroup: Option<Cgroup>,
    /// What of the network is reached by address, if there is a network.
    pub layout: Option<Layout>,
    /// The signals that were blocked before the launch.
    pub signals_before: SignalSet,
}

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

/// Looks at the host and prepares what can be prepared.
pub fn make(spec: &Spec, signals_before: SignalSet, streams: Streams) -> Result<Plan, Error> {
    let nul = || Error::Spec { reason: "a string holds a NUL byte".to_owned() };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Ok(Plan {
        uid,
        gid,
        inside: match spec.identity {
            Identity::Caller => (uid, gid),
            Identity::Root | Identity::Machine => (0, 0),
        },
        strings: strings(&host(fs::read_to_string("/proc/self/stat"), "reading /proc/self/stat")?),
        program: program::prepare(spec).ok_or_else(nul)?,
        streams,
        cgroup: Cgroup::make(&spec.limits),
        layout: spec.network.as_ref().map(outlet::layout).transpose()?,
        signals_before,
    })
}

/// Finds the initial stack's strings in `/proc/self/stat`: fields 48 to 51, arguments then environment.
fn strings(stat: &str) -> Range<usize> {
    // The second field is the program's name, which may hold anything; fields are counted after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let field = |number: usize| after.split_whitespace().nth(number - 3).and_then(|text| text.parse::<usize>().ok());
    match (field(48), field(51)) {
        (Some(start), Some(end)) if start < end => start..end,
        _ => 0..0,
    }
}

/// Finds out where a program's streams lead.
pub fn streams(stdio: &Stdio) -> Result<Streams, Error> {
    match stdio {
        Stdio::Log { path } => {
            let step = format!("opening {}", path.display());
            let append = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
            let log = host(open(path, append, Mode::from_raw_mode(0o644)), &step)?;
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
        let path_only = rustix::fs::fcntl_getfl(stream).is_ok_and(|f| f.contains(OFlags::PATH));
        if path_only || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::Spec { reason: format!("the standard {name} is a directory") });
        }
    }
    Ok(())
}

fn standard() -> [BorrowedFd<'static>; 3] {
    [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_strings_whatever_the_name() {
        let fields: Vec<String> = (3..=52).map(|number| (number * 10).to_string()).collect();
        let stat = format!("1 (a) b) {}", fields.join(" "));
        assert_eq!(super::strings(&stat), 480..510);
        assert_eq!(super::strings("1 (x) S 1"), 0..0);
        assert_eq!(super::strings(""), 0..0);
    }
}
