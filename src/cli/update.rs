//! `silo outdated` and `silo upgrade`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use silo_tool::definition::{self, Scope};
use silo_tool::install;
use silo_tool::outdated::{self, Row};
use silo_tool::sync::{self, SyncOptions};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::Effect;
use super::{install as install_command, sync as sync_command, trust, ui};

/// Show locked packages with newer versions
#[derive(clap::Args)]
pub struct OutdatedArgs {
    /// Only these tools; by default those of the project, or the installed ones outside a project
    tools: Vec<String>,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// Lock today's packages for tools, and build them
#[derive(clap::Args)]
pub struct UpgradeArgs {
    /// Only these tools; by default those of the project, or the installed ones outside a project
    tools: Vec<String>,
}

pub fn run_outdated(globals: &Globals, args: &OutdatedArgs) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let (scope, tools) = meant(&setting, &args.tools)?;
    if scope == Scope::Project {
        trust::require(&setting, None)?;
    }
    let rows = setting.with(|context| {
        let mut rows = Vec::new();
        for tool in &tools {
            rows.extend(outdated::outdated(context, tool, scope)?);
        }
        Ok(rows)
    })?;
    if args.json {
        let row =
            |row: &Row| serde_json::json!({ "tool": row.tool, "package": row.package, "locked": row.locked, "available": row.available });
        ui::json(&rows.iter().map(row).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        ui::data("everything is up to date\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (tool, package) = (width(|row| row.tool.len()), width(|row| row.package.len()));
    let locked = width(|row| row.shown_locked().len());
    let line = |row: &Row| {
        format!(
            "{:tool$}  {:package$}  {:locked$}  {}\n",
            row.tool,
            row.package,
            row.shown_locked(),
            row.available.as_deref().unwrap_or("no longer needed")
        )
    };
    ui::data(&rows.iter().map(line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

pub fn run_upgrade(globals: &Globals, args: &UpgradeArgs) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let (scope, tools) = meant(&setting, &args.tools)?;
    if scope == Scope::Project {
        trust::require(&setting, None)?;
        let wish = SyncOptions { only: Some(tools), update: true, ..SyncOptions::default() };
        let all = setting.with(|context| Ok(sync::sync(context, &wish)?))?;
        return sync_command::report(&all, &setting, Effect::Change);
    }
    let outcomes =
        setting.with(|context| tools.iter().map(|tool| Ok(install::upgrade(context, tool)?)).collect::<Result<Vec<_>, Failure>>())?;
    ui::data(&outcomes.iter().map(install_command::line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the selected tools and their scope.
fn meant(setting: &Setting, named: &[String]) -> Result<(Scope, BTreeSet<String>), Failure> {
    let claimed = definition::claimed(setting.view())?;
    let installed: BTreeSet<String> = silo_tool::record::list(&setting.home)?.into_iter().map(|tool| tool.name).collect();
    let named: BTreeSet<String> = named.iter().cloned().collect();
    if named.is_empty() {
        return Ok(if claimed.is_empty() { (Scope::Global, installed) } else { (Scope::Project, claimed) });
    }
    let scope = if named.is_subset(&claimed) { Scope::Project } else { Scope::Global };
    match named.iter().find(|tool| scope == Scope::Global && !installed.contains(*tool)) {
        Some(tool) => Err(Failure::found(format!("{tool} is neither used by the project nor installed"), "`silo list` shows the tools")),
        None => Ok((scope, named)),
    }
}
