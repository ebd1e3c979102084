//! `silo use` and `silo unuse`.

use std::process::ExitCode;

use silo_base::home::PROJECT_LOCK;
use silo_base::sanitize;
use silo_model::recipe::catalog;
use silo_model::recipe::check::check_name;
use silo_model::version_files::decide::{decide, list};
use silo_model::version_files::findings::VersionWish;
use silo_tool::definition::Scope;
use silo_tool::journal::Change;
use silo_tool::{lock_files, settings_file, trust as tool_trust, versions};

use super::choose_tool;
use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::requested::{self, Requested};
use super::{trust, ui};

/// Add a tool to the project's silo.toml, with an optional version
///
/// Writes silo.toml only; `silo sync` locks and builds the tool. A range of versions is resolved to the newest available version, and an
/// unavailable version is refused with the list of the available ones. Without a version, the project's version files decide: .nvmrc,
/// .python-version, .tool-versions, package.json and others. Without a tool, asks for one and its version on a terminal.
#[derive(clap::Args)]
pub struct UseArgs {
    /// The tool, with an optional version, prefix or range: python, python@3.13, 'node@^22', node@lts, 'python@>=3.11,<3.14'
    #[arg(value_name = "TOOL[@VERSION]")]
    tool: Option<String>,
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
    let setting = setting(globals)?;
    let spec = match &args.tool {
        Some(spec) => spec.clone(),
        None => choose_tool::ask(&setting, "Use")?,
    };
    let (tool, version) = spec.split_once('@').map_or((spec.as_str(), None), |(tool, version)| (tool, Some(version)));
    check_name(tool).map_err(|error| Failure::usage(error.to_string(), "`silo list --available` shows the tools"))?;
    catalog::find(&setting.places, tool)?;
    let requested = match version {
        Some(version) => Some(requested::resolve(setting.view(), tool, version)?),
        None if args.global => None,
        None => of_files(&setting, tool)?,
    };
    let path = trust::settings_path(&setting, Scope::of_flag(args.global))?;
    let ((), changed) = settings_file::change(&setting.home, &path, |document| {
        document.claim(tool)?;
        match &requested {
            Some(requested) => document.set_version(tool, &requested.pin),
            None => Ok(()),
        }
    })?;
    trust::changed(&setting, &changed)?;
    let used = requested.as_ref().map_or_else(|| tool.to_owned(), |requested| format!("{tool}@{}", requested.pin));
    let exact = requested.and_then(|requested| requested.version.filter(|version| *version != requested.pin));
    let exact = exact.map_or_else(String::new, |version| format!(" ({version})"));
    let next = if args.global { format!("silo install {tool}") } else { "silo sync".to_owned() };
    ui::data(&match changed.is_new() {
        true => format!("{}: uses {used}{exact}; run `{next}` next\n", sanitize::path(&path)),
        false => format!("{} has this already\n", sanitize::path(&path)),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the version that the project's version files request, unless silo.toml has one already.
fn of_files(setting: &Setting, tool: &str) -> Result<Option<Requested>, Failure> {
    let has_version = setting.project_settings.overrides.get(tool).is_some_and(|over| over.version.is_some());
    let found = versions::files_in(&setting.project);
    let wishes: Vec<&VersionWish> = found.wishes.iter().filter(|wish| wish.tool == tool).collect();
    if has_version || wishes.is_empty() {
        return Ok(None);
    }
    let Some(available) = versions::available(setting.view(), tool)? else { return Ok(None) };
    let decision = decide(tool, &wishes, &available);
    decision.notes.iter().for_each(|note| ui::note(note));
    let Some(pin) = decision.pin else {
        let what = format!("no version of {tool} that the project's files ask for is available: {}", list(&available));
        return Err(Failure::found(what, format!("type one of these versions, as in {tool}@{}", available[0].version)));
    };
    if let Some(source) = &decision.source {
        ui::note(&format!("{tool} {pin} is the version of {source}"));
    }
    Ok(Some(Requested { pin, version: decision.version }))
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
