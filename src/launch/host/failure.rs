//! A failed step inside the sandbox, in a form that travels to the host side.

use std::{fmt, io};

use crate::launch::error::Error;
use crate::launch::foreign;
use crate::plain;

/// A step that failed while the sandbox was made or the program started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What sort of step it was.
    pub stage: Stage,
    /// What was being done, naming the object.
    pub step: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The error number of Linux's kernel.
    Number(i32),
    /// What was wrong, where no call of the kernel failed.
    Words(String),
}

/// The sorts of steps that a caller tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Making the sandbox.
    Setup,
    /// Looking for the program.
    Find,
    /// Executing the program that was found.
    Execute,
}

impl Failure {
    /// Returns its number and text, as they travel: 0 for a cause in words, which stands behind the step and a NUL byte.
    pub fn to_parts(&self) -> (i32, String) {
        match &self.cause {
            Cause::Number(errno) => (*errno, self.step.clone()),
            Cause::Words(words) => (0, format!("{}\0{words}", self.step)),
        }
    }

    /// Reads what [`Failure::to_parts`] returned. Whoever wrote it may have been taken over, so the text is escaped.
    pub fn from_parts(stage: Stage, errno: i32, text: &str) -> Failure {
        let (step, cause) = match text.split_once('\0').filter(|_| errno == 0) {
            Some((step, words)) => (step, Cause::Words(plain::line(words))),
            None => (text, Cause::Number(errno)),
        };
        Failure { stage, step: plain::line(step), cause }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Number(errno) => foreign::error(*errno).fmt(out),
            Cause::Words(words) => out.write_str(words),
        }
    }
}

/// Says what failed inside, as an error.
pub fn failed(failure: Failure) -> Error {
    let source = match failure.cause {
        Cause::Number(errno) => foreign::error(errno),
        Cause::Words(words) => io::Error::other(words),
    };
    match failure.stage {
        Stage::Setup => Error::Setup { step: failure.step, source },
        Stage::Find => Error::NotFound { program: failure.step.into() },
        Stage::Execute => Error::NotExecutable { program: failure.step.into(), source },
    }
}

/// Names the step during which a call failed.
pub trait During<T> {
    /// For a step that needs no naming of an object.
    fn during(self, step: &str) -> Result<T, Failure>;
    /// For a step whose name is only made when it failed.
    fn during_this(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &str) -> Result<T, Failure> {
        self.during_this(|| step.to_owned())
    }

    fn during_this(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let error = error.into();
            let cause = error.raw_os_error().map_or_else(|| Cause::Words(error.to_string()), Cause::Number);
            Failure { stage: Stage::Setup, step: step(), cause }
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
            (unread.during("reading the job"), "making the sandbox: reading the job: expected value at line 1 column 1"),
            (missing.during("opening it"), "making the sandbox: opening it: No such file or directory (os error 2)"),
        ] {
            let (errno, text) = result.expect_err("it failed").to_parts();
            assert_eq!(failed(Failure::from_parts(Stage::Setup, errno, &text)).to_string(), expect);
        }
    }

    #[test]
    fn the_text_of_a_failure_moves_no_terminal() {
        let hostile = "a\x1b]0;title\x07\u{9b}2Jb\u{202e}c\r\nd\0e\x1b[2Jf\u{85}";
        for errno in [0, 1] {
            let error = failed(Failure::from_parts(Stage::Setup, errno, hostile)).to_string();
            assert!(!error.chars().any(|letter| letter.is_control()), "{error:?}");
        }
    }
}
