//! `silo sync`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_base::home::{LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::sanitize;
use silo_store::digest::Digest;
use silo_tool::lock_files::Resolving;
use silo_tool::sync::{self, SyncOptions, Synced, ToolChanges};

use super::context::{Globals, Setting, setting, setting_at};
use super::error::Failure;
use super::flags::Effect;
use super::{cache, remote, tier, trust, ui};

/// Lock and build the project's tools as silo.toml and silo.lock define them
///
/// Locks and builds only missing parts, and changes nothing if everything is up to date. A tool that fails does not stop the others.
#[derive(clap::Args)]
pub struct Args {
    /// The project; by default the one around the working directory
    path: Option<PathBuf>,
    /// Show the work to do, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Run pinned steps again, and pin their new output
    #[arg(long, conflicts_with = "frozen")]
    force: bool,
    /// Fail if silo.lock is missing or out of date
    #[arg(long)]
    frozen: bool,
    /// Approve the project's permissions if they have this hash, as `silo trust --hash` prints it; fail if they have another one
    #[arg(long, value_name = "HASH", value_parser = Digest::parse, conflicts_with = "dry_run")]
    approve: Option<Digest>,
    #[command(flatten)]
    tier: tier::StepTier,
    #[command(flatten)]
    place: remote::StepPlace,
    /// Keep the state of a failed step, for `silo debug`
    #[arg(long)]
    keep_failed: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let mut setting = match &args.path {
        Some(path) => setting_at(globals, path)?,
        None => setting(globals)?,
    };
    setting.keep_failed = args.keep_failed;
    if let Some(hash) = &args.approve {
        trust::approve_hash(&setting, hash)?;
    }
    trust::require(&setting, None)?;
    let _machine_in_use = args.tier.prepare(&mut setting)?;
    args.place.prepare(&mut setting)?;
    let wish =
        SyncOptions { resolving: Resolving::of_flag(args.frozen), anew: args.force, dry_run: args.dry_run, ..SyncOptions::default() };
    let all = setting.with(|context| Ok(sync::sync(context, &wish)?))?;
    if args.json {
        let rows: Vec<serde_json::Value> = all.iter().map(json).collect();
        ui::json(&rows.into())?;
        return failures(&all).map_or(Ok(ExitCode::SUCCESS), Err);
    }
    let code = report(&all, &setting, Effect::of_flag(args.dry_run))?;
    if args.dry_run && !all.is_empty() {
        ui::data("nothing was changed (--dry-run)\n")?;
    }
    Ok(code)
}

/// Prints the result of each tool; fails if one failed.
pub fn report(all: &[Synced], setting: &Setting, effect: Effect) -> Result<ExitCode, Failure> {
    if all.is_empty() {
        let file = setting.project.join(PROJECT_CONFIG);
        if !file.exists() && !setting.project.join(LEGACY_CONFIG).exists() {
            let what = format!(
                "{} is not in a project: neither it nor a directory above it has a {PROJECT_CONFIG}",
                sanitize::path(&setting.from)
            );
            return Err(Failure::found(what, "`silo init` makes this directory a project; `silo install TOOL` works without one"));
        }
        ui::data(&format!("{} uses no tools; `silo use <tool>` adds one\n", sanitize::path(&file)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = all.iter().filter_map(|one| Some(line(&one.tool, one.outcome.as_ref().ok()?, effect)));
    ui::data(&lines.collect::<String>())?;
    if effect == Effect::Change {
        let is_made = |one: &&Synced| one.outcome.as_ref().is_ok_and(|done| done.made > 0);
        cache::push_made(setting, &all.iter().filter(is_made).map(|one| one.tool.as_str()).collect::<Vec<_>>());
    }
    failures(all).map_or(Ok(ExitCode::SUCCESS), Err)
}

fn line(tool: &str, done: &ToolChanges, effect: Effect) -> String {
    let lock = match (done.locked, effect) {
        (true, Effect::DryRun) => "would be locked",
        (true, Effect::Change) => "locked",
        (false, _) => "lock unchanged",
    };
    let image = match (done.image, done.fresh, effect) {
        (Some(image), true, Effect::Change) => format!(", image {:.12} built ({} new layers)", image.to_string(), done.made),
        (Some(image), ..) => format!(", image {:.12} is up to date", image.to_string()),
        (None, _, Effect::DryRun) => ", would be built".to_owned(),
        (None, ..) => String::new(),
    };
    format!("{tool} {}: {lock}{image}\n", done.version)
}

fn json(one: &Synced) -> serde_json::Value {
    match &one.outcome {
        Ok(done) => serde_json::json!({
            "tool": one.tool, "version": done.version, "image": done.image.map(|image| image.to_string()),
            "locked": done.locked, "built": done.fresh, "layersMade": done.made,
        }),
        Err(error) => serde_json::json!({ "tool": one.tool, "error": error.to_string() }),
    }
}

/// Combines the failures of all tools.
fn failures(all: &[Synced]) -> Option<Failure> {
    Failure::of_several(all.iter().filter_map(|one| Some((one.tool.as_str(), one.outcome.as_ref().err()?))).collect(), all.len())
}
