//! `silo review`: shows the changes of tools that ran in review mode.

use std::process::ExitCode;

use silo_base::{error_chain, sanitize};
use silo_review::changes::Change;
use silo_review::session::Session;
use silo_review::view::{Repository, View};

use crate::run::reviewing::Reviewing;

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::ui;

/// Show the changes that tools made in review mode
#[derive(clap::Args)]
pub struct Args {
    /// Print the changes as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let Some(view) = open(&setting)? else {
        if args.json {
            ui::json(&serde_json::json!({ "changes": [] }))?;
        } else {
            ui::data("there are no changes to review\n")?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let changes = view.changes().map_err(Failure::other)?;
    if args.json {
        let all = changes.iter().map(|change| json(&view, change)).collect::<Vec<_>>();
        ui::json(&serde_json::json!({ "changes": all }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for change in &changes {
        ui::data(&format!("{}\n", line(&view, change)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the review of the project.
fn open(setting: &Setting) -> Result<Option<View>, Failure> {
    let session = Session::find(&setting.home.reviews(), &setting.project).map_err(Failure::other)?;
    session.map(View::open).transpose().map_err(Failure::other)
}

fn line(view: &View, change: &Change) -> String {
    let conflict = view.conflict(change).map_or_else(String::new, |reason| format!(" (conflict: {reason})"));
    format!("{:8} {}{conflict}", change.what.word(), sanitize::path(&change.path))
}

fn json(view: &View, change: &Change) -> serde_json::Value {
    serde_json::json!({
        "path": change.path.to_string_lossy(),
        "change": change.what.word(),
        "conflict": view.conflict(change),
        "problem": change.problem,
    })
}

/// Summarizes the changes at the end of a run.
pub fn after_run(reviewing: Reviewing) -> Vec<String> {
    let (session, mut reports) = reviewing.end();
    let counted = View::open(session).and_then(|view| Ok((view.changes()?.len(), view.repository)));
    match counted {
        Ok((0, Repository::None | Repository::Same)) => {}
        Ok((count, repository)) => {
            let commits = if repository == Repository::Changed { " and changes of the repository" } else { "" };
            reports.push(format!("{count} changes of files{commits} wait for a decision\n  try: silo review"));
        }
        Err(error) => reports.push(format!("the changes of this run cannot be read: {}", error_chain::of(&error).join(": "))),
    }
    reports
}
