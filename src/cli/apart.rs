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
    command.args(options(globals)).arg(verb).args(words);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let (message, hint) = failed;
    let status = status.map_err(|error| Failure::found(format!("cannot start silo itself: {error}"), hint))?;
    if status.success() { Ok(()) } else { Err(Failure::found(message, hint)) }
}

/// Returns the global options as words.
fn options(globals: &Globals) -> Vec<String> {
    // By name, so that a new option is not forgotten here.
    let Globals { quiet, offline, platform } = globals;
    let flags = [(*quiet, "--quiet"), (*offline, "--offline")].into_iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag.to_owned());
    flags.chain(platform.map(|arch| format!("--platform={}", arch.platform()))).collect()
}

#[cfg(test)]
mod tests {
    use silo_base::system::Arch;

    use super::*;

    #[test]
    fn the_other_process_gets_all_global_options() {
        let none = Globals { quiet: false, offline: false, platform: None };
        assert!(options(&none).is_empty());
        let all = Globals { quiet: true, offline: true, platform: Some(Arch::Arm64) };
        assert_eq!(options(&all), ["--quiet", "--offline", "--platform=linux/arm64"]);
    }
}
