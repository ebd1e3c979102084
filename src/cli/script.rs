//! Runs Python scripts with the dependencies that they name in a comment (PEP 723).

use std::ffi::{OsStr, OsString};
use std::path::Path;

use silo_base::sanitize;
use silo_model::version_request::{self, AvailableVersion};
use silo_tool::script::{self, Script};

use crate::run::target::{self, Target};

use super::apart;
use super::context::{Globals, Setting};
use super::env;
use super::error::Failure;
use super::{requested, ui};

/// Python's options with a separate value.
const WITH_VALUE: [&str; 3] = ["-X", "-W", "--check-hash-based-pycs"];

/// The interpreter in an image; a `.venv` of the project does not have the script's dependencies.
const INTERPRETER: &str = "/usr/bin/python3";

/// Returns the target in an image with the script's dependencies, if it runs a script that names some.
pub(super) fn with_dependencies(globals: &Globals, setting: &Setting, target: Target) -> Result<Target, Failure> {
    let is_python =
        |program: &OsString| Path::new(program).file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python"));
    if target.tool.name != script::TOOL || !target.argv.first().is_some_and(is_python) {
        return Ok(target);
    }
    let Some(named) = script_of(&target.argv[1..]) else { return Ok(target) };
    let Some(script) = script::read(&env::cwd()?.join(named))? else { return Ok(target) };
    let version = version(setting, &script, &target.tool.version)?;
    if script.metadata.dependencies.is_empty() && target.tool.version.starts_with(&version) {
        return Ok(target);
    }
    let find = || script::find(setting.view(), &script, Some(&version));
    let found = match find()? {
        Some(found) => found,
        None => {
            let name = sanitize::path(&script.path);
            if !script.metadata.ignored.is_empty() {
                ui::note(&format!("{name}: the table tool.{} does not count", sanitize::line(&script.metadata.ignored.join(", tool."))));
            }
            let spec = format!("{}@{version}", script::TOOL);
            let words = ["--build".into(), "--script".into(), script.path.clone().into(), "--".into(), OsString::from(spec)];
            apart::run(
                globals,
                "x",
                words,
                (
                    &format!("the dependencies of {name} could not be installed"),
                    "correct the dependencies in the script's comment; if the network failed, run the same command again",
                ),
            )?;
            find()?.ok_or_else(|| Failure::found("the image was removed right after the build", "run the same command again"))?
        }
    };
    Ok(target::of_program(found.tool, found.recipe, INTERPRETER.into(), target.argv[1..].to_vec()))
}

impl From<script::Error> for Failure {
    fn from(error: script::Error) -> Failure {
        match error {
            script::Error::Install(error) => error.into(),
            error @ script::Error::Lock { .. } => Failure::found(error.to_string(), "remove the lock, and the next run makes a new one"),
            error @ (script::Error::Metadata { .. } | script::Error::Unresolved { .. }) => {
                Failure::found(error.to_string(), "change the comment at the start of the script")
            }
            error @ script::Error::Write { .. } => {
                Failure::other(error).with_hint("copy the script to a directory that you may write".to_owned())
            }
            error => Failure::other(error),
        }
    }
}

/// Returns the script among the arguments of Python: the first one that is no option.
fn script_of(args: &[OsString]) -> Option<&OsStr> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-c" | "-m" | "-" | "--") => return None,
            Some(option) if WITH_VALUE.contains(&option) => drop(args.next()),
            Some(option) if option.starts_with('-') => {}
            _ => return Some(arg),
        }
    }
    None
}

/// Returns the release line of Python for a script: that of the current Python, if the script supports it.
fn version(setting: &Setting, script: &Script, current: &str) -> Result<String, Failure> {
    let line = |version: &str| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let Some(wanted) = &script.metadata.requires_python else { return Ok(line(current)) };
    let available = AvailableVersion { version: current.to_owned(), label: String::new() };
    if version_request::parse(script::TOOL, wanted).is_ok_and(|request| request.fits(&available)) {
        return Ok(line(current));
    }
    let found = requested::resolve(setting.view(), script::TOOL, wanted)?;
    Ok(line(&found.version.unwrap_or(found.pin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_the_first_argument_that_is_no_option() {
        for (words, expect) in [
            (&["a.py", "-x"][..], Some("a.py")),
            (&["-u", "-X", "dev", "-Wignore", "a.py"], Some("a.py")),
            (&["-c", "a.py"], None),
            (&["-m", "a.py"], None),
            (&["-"], None),
            (&[], None),
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(script_of(&words), expect.map(OsStr::new), "{words:?}");
        }
    }
}
