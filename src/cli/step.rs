//! The hidden command by which a build starts silo anew for one step (see `launch`).

use std::path::PathBuf;
use std::process::ExitCode;

use crate::launch::{again, error, launch, spec::Spec};

use super::error::Failure;

/// The command's word; nobody types it.
pub const WORD: &str = again::WORD;

/// Launch a spec: from a build over a pipe, or from a file to look into a launch by hand
#[derive(clap::Args)]
pub struct Args {
    /// A launch spec as JSON; its program gets silo's own streams and gives the exit code
    spec: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.spec {
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
