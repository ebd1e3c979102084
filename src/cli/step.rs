//! The hidden command by which a build starts silo anew for one step (see `launch`).

use std::path::PathBuf;
use std::process::ExitCode;

use crate::launch::{self, again, error, launch, spec::Spec};

use super::error::Failure;

/// The command's word; nobody types it.
pub const WORD: &str = again::WORD;

/// Launch a spec: from a build over a pipe, or from a file to look into a launch by hand
#[derive(clap::Args)]
pub struct Args {
    /// A launch spec as JSON; its program gets silo's own streams and gives the exit code
    spec: Option<PathBuf>,
    /// Take the snapshot that launches like this one can use, in the background
    #[arg(long, requires = "spec")]
    snapshot: bool,
}

/// Between all that has to be done at once, what can wait.
const NICE: i32 = 10;

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.spec {
        Some(file) if args.snapshot => snapshot(file).map(|()| ExitCode::SUCCESS),
        None => again::serve().map(|()| ExitCode::SUCCESS).map_err(Failure::other),
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
    // Whoever is done with the terminal is not asked about what goes on.
    let _ = rustix::process::setsid();
    let _ = rustix::process::nice(NICE);
    let json =
        std::fs::read(file).map_err(|source| Failure::other(error::Error::Host { step: format!("reading {}", file.display()), source }))?;
    Spec::from_json(&json).and_then(|spec| launch::take_snapshot(&spec)).map_err(Failure::other)
}
