//! The exit status of a program.

use super::system;

/// The exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// It was killed by this signal.
    Signal(i32),
}

impl Exit {
    /// Returns the exit code that a shell would report: 128+n for a signal.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    /// Ends this process by the signal that ended the program, so that a shell reacts as if it had run the program itself. Returns if the
    /// program exited with a code, or if the signal does not end this process.
    pub fn end_by_signal(self) {
        if let Exit::Signal(signal) = self {
            system::end_by(signal);
        }
    }
}
