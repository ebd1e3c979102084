//! A failed step inside the sandbox, in a form that can be sent to the host side.

use std::{fmt, io};

use silo_wire::frame::StageFailure;

use crate::error::Error;
use crate::linux_abi;
use silo_base::sanitize;

/// ENOEXEC, the same on all systems.
const NO_PROGRAM: i32 = 8;

/// A step that failed during the sandbox's setup or the program's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of step.
    pub stage: StageFailure,
    /// The step, with the object's name.
    pub step: String,
    /// The reason.
    pub cause: Cause,
}

/// The reason of a failed step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An error number of the Linux kernel.
    Number(i32),
    /// A description, if no system call failed.
    Words(String),
}

impl Failure {
    /// Returns the error number and text for the wire. A cause in words has number 0 and follows the step and a NUL byte.
    pub fn to_parts(&self) -> (i32, String) {
        match &self.cause {
            Cause::Number(errno) => (*errno, self.step.clone()),
            Cause::Words(words) => (0, format!("{}\0{words}", self.step)),
        }
    }

    /// Parses the result of [`Failure::to_parts`]. The sender may be compromised, so the text is escaped.
    pub fn from_parts(stage: StageFailure, errno: i32, text: &str) -> Failure {
        let (step, cause) = match text.split_once('\0').filter(|_| errno == 0) {
            Some((step, words)) => (step, Cause::Words(sanitize::line(words))),
            None => (text, Cause::Number(errno)),
        };
        Failure { stage, step: sanitize::line(step), cause }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Number(errno) => linux_abi::error(*errno).fmt(out),
            Cause::Words(words) => out.write_str(words),
        }
    }
}

/// Converts a failure inside into an error.
pub fn failed(failure: Failure) -> Error {
    let source = match failure.cause {
        Cause::Number(NO_PROGRAM) if failure.stage == StageFailure::Execute => io::Error::other(
            "exec format error: the file is no program for this processor, or it is a 32-bit program and the kernel runs none",
        ),
        Cause::Number(errno) => linux_abi::error(errno),
        Cause::Words(words) => io::Error::other(words),
    };
    match failure.stage {
        StageFailure::Setup => Error::Setup { step: failure.step, source },
        StageFailure::Find => Error::NotFound { program: failure.step.into() },
        StageFailure::Execute => Error::NotExecutable { program: failure.step.into(), source },
    }
}

/// Adds the name of the step to an error.
pub trait StepContext<T> {
    /// For a constant step name.
    fn during(self, step: &str) -> Result<T, Failure>;
    /// For a step name that is only built on failure.
    fn during_this(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> StepContext<T> for Result<T, E> {
    fn during(self, step: &str) -> Result<T, Failure> {
        self.during_this(|| step.to_owned())
    }

    fn during_this(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            let cause = error.raw_os_error().map_or_else(|| Cause::Words(error.to_string()), Cause::Number);
            Failure { stage: StageFailure::Setup, step: step(), cause }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_failure_travels_with_it() {
        let unread: Result<(), _> = Err(io::Error::from(serde_json::from_str::<u8>("x").expect_err("no number")));
        let missing: Result<(), _> = Err(io::Error::from_raw_os_error(libc::ENOENT));
        for (result, expect) in [
            (unread.during("reading the job"), "setting up the sandbox: reading the job: expected value at line 1 column 1"),
            (missing.during("opening it"), "setting up the sandbox: opening it: No such file or directory (os error 2)"),
        ] {
            let (errno, text) = result.expect_err("it failed").to_parts();
            assert_eq!(failed(Failure::from_parts(StageFailure::Setup, errno, &text)).to_string(), expect);
        }
    }

    #[test]
    fn the_text_of_a_failure_moves_no_terminal() {
        let hostile = "a\x1b]0;title\x07\u{9b}2Jb\u{202e}c\r\nd\0e\x1b[2Jf\u{85}";
        for errno in [0, 1] {
            let error = failed(Failure::from_parts(StageFailure::Setup, errno, hostile)).to_string();
            assert!(!error.chars().any(|letter| letter.is_control()), "{error:?}");
        }
    }
}
