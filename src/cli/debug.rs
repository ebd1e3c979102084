//! `silo debug`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use silo_store::flock::share;

use silo_build::SPEC;
use silo_launch::launch;
use silo_launch::spec::{Spec, Stdio};
use silo_model::recipe::SHELL;

use super::context::{Globals, setting};
use super::error::{self, Failure};

/// Open a shell in the state of a failed step, kept by --keep-failed
///
/// The shell sees the root file system as the step left it, with the step's environment and mounts. `silo gc` removes kept states.
#[derive(clap::Args)]
pub struct Args {
    /// Derivation id of the step, or a prefix of it; by default the step that failed last
    step: Option<String>,
    /// Run this command instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let _in_use = share(&setting.store).map_err(Failure::other)?;
    let mut kept = kept(&setting.home.work())?;
    kept.retain(|(_, name, _)| args.step.as_ref().is_none_or(|step| name.starts_with(step.as_str())));
    kept.sort();
    let Some((_, _, path)) = kept.pop() else {
        let what = args.step.as_ref().map_or_else(|| "no failed step".to_owned(), |step| format!("no failed step {step}"));
        return Err(Failure::found(format!("{what} was kept"), "build again with --keep-failed"));
    };
    let json = std::fs::read(&path).map_err(Failure::other)?;
    let mut spec = Spec::from_json(&json).map_err(Failure::other)?;
    spec.stdio = Stdio::Auto;
    spec.argv = match args.command.as_slice() {
        [] => vec![SHELL.into()],
        words => words.iter().map(Into::into).collect(),
    };
    let exit = launch(&spec).map_err(|error| {
        let (code, hint) = (error.code(), error::launch_hint(&error));
        let failure = Failure::other(error).with_code(code);
        match hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    })?;
    Ok(ExitCode::from(exit.code()))
}

/// Lists the launch specs of kept steps, with their modification time and name.
fn kept(work: &std::path::Path) -> Result<Vec<(SystemTime, String, PathBuf)>, Failure> {
    let listing = match std::fs::read_dir(work) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::other(error)),
    };
    let mut kept = Vec::new();
    for entry in listing {
        let entry = entry.map_err(Failure::other)?;
        let path = entry.path().join(SPEC);
        if let Ok(when) = std::fs::metadata(&path).and_then(|meta| meta.modified()) {
            kept.push((when, entry.file_name().to_string_lossy().into_owned(), path));
        }
    }
    Ok(kept)
}
