//! `silo trust`, and the questions that come before a project's own files count.

use std::path::Path;
use std::process::ExitCode;

use crate::config::Trust;
use crate::plain;
use crate::run::error::Error;
use crate::run::{moved, private};
use crate::tool::kept::{self, Keeper};
use crate::tool::settings_file::Changed;
use crate::tool::trust::{self, Exposures};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::{env, ui};

/// Approve what this project's silo.toml and recipes open to its tools
///
/// Shows what is new since the last approval and asks. What silo itself writes into silo.toml counts as approved.
#[derive(clap::Args)]
pub struct Args {
    /// Approve without asking
    #[arg(long, short)]
    yes: bool,
    /// Show this directory to tools from now on, although it holds your home directory, keys or the whole machine
    #[arg(long)]
    expose: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let mut exposed = exposures(&setting, None)?;
    if let (true, Some(why)) = (args.expose, why_hidden(&setting.project)?) {
        exposed.insert(private::approval(why));
    }
    let new = new(&setting, exposed)?;
    if new.is_empty() {
        ui::data(&format!("{}: nothing that is not approved\n", plain::path(&setting.project)))?;
        return Ok(ExitCode::SUCCESS);
    }
    ui::data(&format!("{} asks that\n{}", plain::path(&setting.project), listed(&new)))?;
    if !args.yes && !ui::ask("Approve it? [y/N] ", "y", "--yes approves without asking")? {
        return Ok(ExitCode::FAILURE);
    }
    approve(&setting, &setting.project, &new)?;
    ui::data("approved\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Fails where a project opens to a tool, or to any of its tools, what nobody has approved; on a terminal it asks first.
pub fn require(setting: &Setting, tool: Option<&str>) -> Result<(), Failure> {
    if setting.user_settings.trust == Some(Trust::Always) {
        return Ok(());
    }
    let new = new(setting, exposures(setting, tool)?)?;
    if new.is_empty() {
        return Ok(());
    }
    let what = format!("{} asks for what is not approved:\n{}", plain::path(&setting.project), listed(&new).trim_end());
    if ui::is_asking() {
        ui::note(&what);
        if ui::ask("Approve it? [y/N] ", "y", "")? {
            return approve(setting, &setting.project, &new);
        }
    }
    Err(Failure::found(what, "`silo trust` shows and approves it; --no-project runs without the project and its settings"))
}

/// Fails where a directory holds what no tool is meant to see, unless that was confirmed; on a terminal it asks first.
pub fn showable(setting: &Setting, dir: &Path) -> Result<(), Failure> {
    match private::hidden(&setting.home, &env::home()?, dir)? {
        Some(why) => confirm_private(setting, dir, why),
        None => Ok(()),
    }
}

/// Asks whether a directory that holds what no tool is meant to see is shown from now on; without a terminal it is an error.
pub fn confirm_private(setting: &Setting, dir: &Path, why: &'static str) -> Result<(), Failure> {
    let refused = Error::Private { dir: dir.to_owned(), why };
    if ui::is_asking() {
        ui::note(&refused.to_string());
        if ui::ask("Show it all the same, from now on? Type yes: ", "yes", "")? {
            return approve(setting, dir, &[private::approval(why)].into());
        }
    }
    Err(refused.into())
}

/// Approves what a change of the project's silo.toml opens; one of the user's own needs no approval.
pub fn changed(setting: &Setting, changed: &Changed) -> Result<(), Failure> {
    if changed.path() == setting.home.config() {
        return Ok(());
    }
    let (before, after) = changed.texts();
    Ok(trust::approve_change(&setting.home, &setting.project, &setting.user_settings, before, after)?)
}

fn why_hidden(dir: &Path) -> Result<Option<&'static str>, Failure> {
    Ok(private::why_private(&env::home()?, dir))
}

/// What the project's own files open to a tool, or to all that it claims.
fn exposures(setting: &Setting, tool: Option<&str>) -> Result<Exposures, Failure> {
    let mut exposed = trust::of_settings(&setting.project_settings, &setting.user_settings);
    let claimed = if tool.is_none() { setting.settings.claims() } else { Default::default() };
    for tool in claimed.iter().map(String::as_str).chain(tool) {
        exposed.extend(trust::of_recipe(&setting.places, tool));
    }
    exposed.extend(trust::of_inside(&setting.home, &setting.project)?);
    Ok(exposed)
}

fn new(setting: &Setting, exposed: Exposures) -> Result<Exposures, Failure> {
    let unapproved = |exposed: &Exposures| -> Result<Exposures, Failure> {
        let approved = trust::approved(&setting.home, &setting.project)?;
        Ok(exposed.difference(&approved).cloned().collect())
    };
    if exposed.is_empty() {
        return Ok(exposed);
    }
    let new = unapproved(&exposed)?;
    if new.is_empty() || Keeper::new(&setting.home, Some(&setting.project), None).is_known() {
        return Ok(new);
    }
    // It may have been approved where the project was before.
    if let Some(note) = moved::settle(&setting.home, &setting.store, &setting.project)? {
        ui::note(&note);
    }
    unapproved(&exposed)
}

fn approve(setting: &Setting, project: &Path, new: &Exposures) -> Result<(), Failure> {
    trust::approve(&setting.home, project, new)?;
    // So that a project that is moved is known again.
    Ok(kept::own_by(&setting.home, &kept::id(project, None), project)?)
}

/// What is written was made by somebody else: nothing of it acts on a terminal.
fn listed(exposures: &Exposures) -> String {
    exposures.iter().map(|line| format!("  {}\n", line.escape_debug())).collect()
}
