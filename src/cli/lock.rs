//! `silo lock`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::recipe::catalog;
use crate::tool::{install, locking};

use super::context::{Globals, setting};
use super::error::Failure;
use super::ui;

/// Pin the exact packages of a recipe, for every architecture
///
/// Reads the distribution's signed indexes and writes the recipe's lock. A recipe that is locked already
/// keeps its lock, unless --update asks for today's packages.
#[derive(clap::Args)]
pub struct Args {
    /// The tool
    tool: String,
    /// Lock today's packages, although there is a lock
    #[arg(long)]
    update: bool,
    /// Write the lock to this file instead of where silo looks for it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let line = setting.with(|context| {
        let found = catalog::find(context.places, &args.tool)?;
        let existing = if args.update { None } else { locking::existing(context, &found)? };
        let path = args.output.clone().unwrap_or_else(|| locking::path(context, &found));
        let (state, lock) = match existing {
            Some(lock) => ("is locked already", lock),
            None => ("locked", locking::resolve(context, &found)?),
        };
        if state == "locked" || args.output.is_some() {
            locking::write(&path, &BTreeMap::from([(args.tool.clone(), lock.clone())]))?;
        }
        let packages: Vec<String> = lock.packages.iter().map(|(arch, packages)| format!("{} on {arch}", packages.len())).collect();
        Ok(format!("{} {} {state}: packages {}\n", args.tool, install::version(&found, &lock), packages.join(", ")))
    })?;
    ui::data(&line)?;
    Ok(ExitCode::SUCCESS)
}
