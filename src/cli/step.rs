//! The hidden command with which a build re-executes silo for one step (see `launch`).

use std::path::PathBuf;
use std::process::ExitCode;

use silo_launch::{error, launch, reexec, spec::Spec};

use super::error::Failure;

/// Name of the command; users do not type it.
pub const WORD: &str = reexec::WORD;

/// Launch a spec: from a build over a pipe, or from a file for debugging
#[derive(clap::Args)]
pub struct Args {
    /// A launch spec as JSON; its program gets silo's standard streams, and its exit code is silo's
    spec: Option<PathBuf>,
    /// Take a snapshot for later launches of this spec, in the background
    #[arg(long, requires = "spec")]
    snapshot: bool,
    /// Give the files of a killed step in this directory to the caller
    #[arg(long, requires = "spec", conflicts_with = "snapshot")]
    reclaim: bool,
}

/// Low priority for background work.
const NICE: i32 = 10;

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.spec {
        Some(file) if args.snapshot => snapshot(file).map(|()| ExitCode::SUCCESS),
        Some(tree) if args.reclaim => silo_launch::reclaim(tree).map(|()| ExitCode::SUCCESS).map_err(Failure::other),
        None => reexec::serve().map(|()| ExitCode::SUCCESS).map_err(Failure::other),
        Some(file) => by_hand(file).map(ExitCode::from),
    }
}

fn by_hand(file: &std::path::Path) -> Result<u8, Failure> {
    let failed = |error: error::Error| {
        let code = error.code();
        Failure::other(error).with_code(code)
    };
    let json = std::fs::read(file).map_err(|source| failed(error::Error::Host { step: format!("reading {}", file.display()), source }))?;
    let exit = Spec::from_json(&json).and_then(|spec| launch(&spec)).map_err(failed)?;
    Ok(exit.code())
}

fn snapshot(file: &std::path::Path) -> Result<(), Failure> {
    // Leave the terminal's session, so that job control does not affect this process.
    let _ = rustix::process::setsid();
    let _ = rustix::process::nice(NICE);
    let json =
        std::fs::read(file).map_err(|source| Failure::other(error::Error::Host { step: format!("reading {}", file.display()), source }))?;
    Spec::from_json(&json).and_then(|spec| silo_launch::take_snapshot(&spec)).map_err(Failure::other)
}
