//! `silo apply`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_review::apply;
use silo_review::choose::Choice;
use silo_review::finish::Caller;

use crate::run::reviewing::arrivals;

use super::context::{Globals, setting};
use super::deciding::{self, OnConflict, count};
use super::error::Failure;
use super::ui;

/// Apply changes of review mode to the project, all at once or not at all
///
/// A file that changed here too is never overwritten: then nothing is applied.
#[derive(clap::Args)]
pub struct Args {
    /// Apply changes of these paths, and of everything below them; by default all changes, with those of the git repository
    #[arg(conflicts_with_all = ["safe", "undo"])]
    paths: Vec<PathBuf>,
    /// Apply only changes that nothing on this machine executes by itself
    #[arg(long, conflicts_with = "undo")]
    safe: bool,
    /// Leave out changes that cannot be applied, such as those of files that changed here too
    #[arg(long, conflicts_with = "undo")]
    skip_conflicts: bool,
    /// Undo the last applied changes, which is possible for a day
    #[arg(long)]
    undo: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let Some(mut view) = deciding::locked(&setting)? else {
        return Err(Failure::usage("this project has no changes to review", "`silo run --review TOOL` makes some"));
    };
    if args.undo {
        let last = apply::last(&view.session).map_err(deciding::failure)?;
        let number = last.ok_or_else(|| deciding::failure(silo_review::Error::NoDecision))?;
        let arrive = arrivals(&setting.home, setting.project.clone());
        let caller = Caller { now: deciding::now(), arrive: &arrive };
        let undone = apply::undo(&mut view, number, &caller).map_err(deciding::failure)?;
        ui::data(&format!("undid {}; `silo apply --undo` again applies them once more\n", count(undone.paths.len(), "change")))?;
        return Ok(ExitCode::SUCCESS);
    }
    let choice = match (args.safe, args.paths.is_empty()) {
        (true, _) => Choice::Safe,
        (false, true) => Choice::All,
        (false, false) => Choice::Paths(deciding::inside(&setting, &args.paths)?),
    };
    let applied = deciding::apply(&setting, &mut view, &choice, OnConflict::of_flag(args.skip_conflicts))?;
    let left = view.changes().map_err(deciding::failure)?.len();
    let rest = if left > 0 { format!("; {} wait (`silo review`)", count(left, "change")) } else { String::new() };
    if args.safe && view.repository.has_changes() {
        ui::note(
            "the changes of the git repository wait: this machine executes or obeys files of new commits\n  try: silo review, silo apply",
        );
    }
    ui::data(&format!("applied {}{rest}\n", count(applied.paths.len(), "change")))?;
    Ok(ExitCode::SUCCESS)
}
