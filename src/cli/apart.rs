//! Runs another command of silo in a process of its own: a process that launches a sandbox must have no other thread, and a build has some.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use super::context::Globals;
use super::env;
use super::error::Failure;

/// Runs the command `verb` of silo without input and output; its progress and errors go to standard error. Fails with `failed`, a message
/// and a hint, if the command fails.
pub fn run(globals: &Globals, verb: &str, words: impl IntoIterator<Item = OsString>, failed: (&str, &str)) -> Result<(), Failure> {
    let mut command = Command::new(env::program()?);
    command.args(globals.quiet.then_some("--quiet")).args(globals.offline.then_some("--offline")).arg(verb).args(words);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let (message, hint) = failed;
    let status = status.map_err(|error| Failure::found(format!("cannot start silo itself: {error}"), hint))?;
    if status.success() { Ok(()) } else { Err(Failure::found(message, hint)) }
}
