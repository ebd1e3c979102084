//! A failed step inside the sandbox, in a form that travels to the host side.

use std::io;

use crate::launch::error::Error;
use crate::launch::foreign;

/// A step that failed while the sandbox was made or the program started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What sort of step it was.
    pub stage: Stage,
    /// What was being done, naming the object.
    pub step: String,
    /// The error number of Linux's kernel.
    pub errno: i32,
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

/// Says what failed inside, as an error.
pub fn failed(failure: Failure) -> Error {
    let source = foreign::error(failure.errno);
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
            let errno = error.into().raw_os_error().unwrap_or(libc::EINVAL);
            Failure { stage: Stage::Setup, step: step(), errno }
        })
    }
}
