//! `silo use` and `silo unuse`.

use std::process::ExitCode;

use silo_base::home::PROJECT_LOCK;
use silo_base::sanitize;
use silo_model::recipe::catalog;
use silo_model::recipe::check::check_name;
use silo_model::recipe::versions::is_version;
use silo_tool::definition::Scope;
use silo_tool::journal::Change;
use silo_tool::{lock_files, settings_file, trust as tool_trust};

use super::context::{Globals, setting};
use super::error::Failure;
use super::{trust, ui};

/// Add a tool to the project's silo.toml, with an optional version
///
/// Writes silo.toml only; `silo sync` locks and builds the tool.
#[derive(clap::Args)]
pub struct UseArgs {
    /// The tool, with an optional version or version prefix: python, python@3.13
    #[arg(value_name = "TOOL[@VERSION]")]
    tool: String,
    /// Apply everywhere: write to ~/.silo/silo.toml
    #[arg(long)]
    global: bool,
}

/// Remove a tool from the project's silo.toml
///
/// Removes only the tool's name and version; other settings of the tool stay in silo.toml.
#[derive(clap::Args)]
pub struct UnuseArgs {
    /// The tool
    tool: String,
    /// Apply everywhere: write to ~/.silo/silo.toml
    #[arg(long)]
    global: bool,
}

pub fn run_use(globals: &Globals, args: &UseArgs) -> Result<ExitCode, Failure> {
    let (tool, version) = match args.tool.split_once('@') {
        Some((tool, version)) => (tool, Some(version)),
        None => (args.tool.as_str(), None),
    };
    check_name(tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    if let Some(version) = version.filter(|version| !is_version(version)) {
        return Err(Failure::usage(format!("\"{version}\" is not a version"), format!("type {tool}@ and a version, as in {tool}@1.2")));
    }
    let setting = setting(globals)?;
    catalog::find(&setting.places, tool)?;
    let path = trust::settings_path(&setting, Scope::of_flag(args.global))?;
    let ((), changed) = settings_file::change(&setting.home, &path, |document| {
        document.claim(tool)?;
        match version {
            Some(version) => document.set_version(tool, version),
            None => Ok(()),
        }
    })?;
    trust::changed(&setting, &changed)?;
    let next = if args.global { format!("silo install {tool}") } else { "silo sync".to_owned() };
    ui::data(&match changed.is_new() {
        true => format!("{}: uses {}; run `{next}` next\n", sanitize::path(&path), args.tool),
        false => format!("{} has this already\n", sanitize::path(&path)),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn run_unuse(globals: &Globals, args: &UnuseArgs) -> Result<ExitCode, Failure> {
    check_name(&args.tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    let setting = setting(globals)?;
    let path = trust::settings_path(&setting, Scope::of_flag(args.global))?;
    let (was, changed) = settings_file::prepare(&setting.home, &path, |document| {
        let listed = document.disclaim(&args.tool)?;
        Ok(document.unset_version(&args.tool)? || listed)
    })?;
    if !was {
        return Err(Failure::found(format!("{} does not list {}", path.display(), args.tool), "`silo list` shows the tools"));
    }
    let lock = if args.global { None } else { lock_files::forget(&setting.home, &setting.project.join(PROJECT_LOCK), &args.tool)? };
    let left = lock.is_some();
    let changes: Vec<Change> = [changed.change(&setting.home)?].into_iter().chain(lock).collect();
    tool_trust::commit(&setting.home, &setting.project, &changes)?;
    let lock = if left { " and silo.lock" } else { "" };
    ui::data(&format!("{}{lock}: {} is no longer used\n", sanitize::path(&path), args.tool))?;
    Ok(ExitCode::SUCCESS)
}
