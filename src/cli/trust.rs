//! `silo trust`.

use std::process::ExitCode;

use crate::tool::trust::{self, Exposures};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::ui;

/// Approve what this project's silo.toml and recipes open to its tools
///
/// Shows what is new since the last approval and asks. What `silo config` writes counts as approved.
#[derive(clap::Args)]
pub struct Args {
    /// Approve without asking
    #[arg(long, short)]
    yes: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let mut exposed = trust::of_settings(&setting.project_settings);
    for tool in setting.settings.claims() {
        exposed.extend(trust::of_recipe(&setting.places, &tool));
    }
    let new = new(&setting, exposed)?;
    if new.is_empty() {
        ui::data(&format!("{}: nothing that is not approved\n", setting.project.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    ui::data(&format!("{} asks that\n{}", setting.project.display(), listed(&new)))?;
    if !args.yes && !ui::ask("Approve it? [y/N] ", "y", "--yes approves without asking")? {
        return Ok(ExitCode::FAILURE);
    }
    trust::approve(&setting.home, &setting.project, &new)?;
    ui::data("approved\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Fails where a project opens to a tool what nobody has approved.
pub fn require(setting: &Setting, tool: &str) -> Result<(), Failure> {
    let mut exposed = trust::of_settings(&setting.project_settings);
    exposed.extend(trust::of_recipe(&setting.places, tool));
    let new = new(setting, exposed)?;
    if new.is_empty() {
        return Ok(());
    }
    let what = format!("{} asks for what is not approved:\n{}", setting.project.display(), listed(&new).trim_end());
    Err(Failure::found(what, "`silo trust` shows and approves it; --no-project runs without the project and its settings"))
}

fn new(setting: &Setting, exposed: Exposures) -> Result<Exposures, Failure> {
    if exposed.is_empty() {
        return Ok(exposed);
    }
    let approved = trust::approved(&setting.home, &setting.project)?;
    Ok(exposed.difference(&approved).cloned().collect())
}

/// What is written was made by somebody else: nothing of it acts on a terminal.
fn listed(exposures: &Exposures) -> String {
    exposures.iter().map(|line| format!("  {}\n", line.escape_debug())).collect()
}
