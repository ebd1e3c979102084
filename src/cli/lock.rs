//! `silo lock`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use silo_model::recipe::catalog;
use silo_tool::definition::{self, Scope};
use silo_tool::lock_files;
use silo_tool::sync::{self, SyncOptions};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::Effect;
use super::{sync as sync_command, trust, ui};

/// Pin the exact packages of tools, for every architecture
///
/// Reads the distribution's signed indexes and writes the lock. In a project that uses the tool this is silo.lock, otherwise the recipe's
/// own lock: with a version the lock of this version, else those of all versions. Existing pins stay unless --update asks for today's
/// packages. Without a tool, locks all tools of the project.
#[derive(clap::Args)]
pub struct Args {
    /// The tool; for the lock of its recipe, with an optional version
    #[arg(value_name = "TOOL[@VERSION]")]
    tool: Option<String>,
    /// Replace an existing lock by today's packages
    #[arg(long)]
    update: bool,
    /// Write the recipe's lock to this file instead of the default place
    #[arg(long, value_name = "FILE", requires = "tool")]
    output: Option<PathBuf>,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let claimed = definition::claimed(setting.view());
    match &args.tool {
        Some(tool) if args.output.is_some() || !claimed.as_ref().is_ok_and(|claimed| claimed.contains(tool)) => {
            recipe(&setting, args, tool)
        }
        tool => {
            trust::require(&setting, tool.as_deref())?;
            let wish = SyncOptions {
                only: tool.as_ref().map(|tool| BTreeSet::from([tool.clone()])),
                update: args.update,
                lock_only: true,
                ..SyncOptions::default()
            };
            let all = setting.with(|context| Ok(sync::sync(context, &wish)?))?;
            sync_command::report(&all, &setting, Effect::Change)
        }
    }
}

/// Locks a recipe: the requested version, or each version with packages of its own.
fn recipe(setting: &Setting, args: &Args, spec: &str) -> Result<ExitCode, Failure> {
    let (tool, version) = spec.split_once('@').map_or((spec, None), |(tool, version)| (tool, Some(version)));
    let recipe = catalog::find(&setting.places.without_project(), tool)?.recipe;
    let mut done = BTreeSet::from([recipe.name.clone()]);
    let others =
        recipe.versions.iter().filter(|(_, other)| done.insert(other.lock_name.clone())).map(|(version, _)| Some(version.as_str()));
    let versions: Vec<Option<&str>> = match version {
        Some(version) => vec![Some(version)],
        None => std::iter::once(None).chain(others).collect(),
    };
    let lines = setting.with(|context| {
        let context = &context.without_project();
        let mut locks = BTreeMap::new();
        let mut lines = String::new();
        for version in versions {
            let definition = definition::of_version(context.view(), tool, Scope::Global, version)?;
            let existing = if args.update { None } else { lock_files::existing(context.view(), &definition)? };
            let (state, lock) = match existing {
                Some(lock) => ("is locked already", lock),
                None => ("locked", lock_files::resolve(context, &definition)?),
            };
            let packages: Vec<String> = lock.packages.iter().map(|(arch, packages)| format!("{} on {arch}", packages.len())).collect();
            lines += &format!("{tool} {} {state}: packages {}\n", lock_files::version(&definition, &lock), packages.join(", "));
            match args.output {
                Some(_) => drop(locks.insert(definition.found.recipe.lock_name, lock)),
                None => drop(lock_files::keep(context.view(), &definition, &lock)?),
            }
        }
        if let Some(path) = &args.output {
            lock_files::write(&setting.home, path, &locks)?;
        }
        Ok(lines)
    })?;
    ui::data(&lines)?;
    Ok(ExitCode::SUCCESS)
}
