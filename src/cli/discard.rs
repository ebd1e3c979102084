//! `silo discard`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_review::choose::{self, Choice};
use silo_review::discard;

use super::context::{Globals, setting};
use super::deciding::{self, count};
use super::error::Failure;
use super::ui;

/// Discard changes of review mode; the project stays as it is
#[derive(clap::Args)]
pub struct Args {
    /// Discard changes of these paths, and of everything below them; by default all changes, with those of the git repository
    paths: Vec<PathBuf>,
    /// Do not ask before all changes are discarded
    #[arg(long, short)]
    yes: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let Some(view) = deciding::locked(&setting)? else {
        return Err(Failure::usage("this project has no changes to review", "`silo run --review TOOL` makes some"));
    };
    if args.paths.is_empty() {
        if !args.yes && !ui::ask("Discard all changes of review mode? [y/N] ", "y", "`silo discard --yes` does not ask")? {
            return Ok(ExitCode::FAILURE);
        }
        discard::all(&view).map_err(deciding::failure)?;
        ui::data("discarded all changes\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let all = deciding::weighed(&setting, &view)?;
    let choice = Choice::Paths(deciding::inside(&setting, &args.paths)?);
    let chosen = choose::choose(&all, &choice).map_err(deciding::unchosen)?;
    let Choice::Paths(paths) = &choice else { return Ok(ExitCode::FAILURE) };
    let number = discard::some(&view, &all, &chosen, paths).map_err(deciding::failure)?;
    ui::data(&format!("discarded {}\n", count(number, "change")))?;
    Ok(ExitCode::SUCCESS)
}
