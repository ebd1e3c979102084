//! The hidden command by which a build starts silo anew for one step (see `launch`).

use std::process::ExitCode;

use crate::launch::again;

use super::error::Failure;

/// The command's word; nobody types it.
pub const WORD: &str = again::WORD;

pub fn run() -> Result<ExitCode, Failure> {
    again::serve().map_err(Failure::other)?;
    Ok(ExitCode::SUCCESS)
}
