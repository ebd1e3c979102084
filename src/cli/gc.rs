//! `silo gc`.

use std::process::ExitCode;
use std::time::Duration;

use crate::tool::collect::{self, Wish};

use super::context::{Globals, setting};
use super::error::Failure;
use super::ui;

/// Remove what no installed tool needs
///
/// What a running sandbox or build uses is never removed: while there is one, nothing is.
#[derive(clap::Args)]
pub struct Args {
    /// Keep what is younger than so many days
    #[arg(long, value_name = "DAYS", default_value_t = 14)]
    min_age_days: u32,
    /// Remove everything that is not needed, however young, and all fetched files
    #[arg(long)]
    all: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

const DAY_SECS: u64 = 86_400;

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let days = if args.all { 0 } else { args.min_age_days };
    let wish = Wish { min_age: Duration::from_secs(u64::from(days) * DAY_SECS), downloads: args.all, dry_run: args.dry_run };
    let setting = setting(globals)?;
    let collected = setting.with(|context| {
        collect::collect(context, &wish).map_err(|error| {
            let busy = matches!(error, collect::Error::Busy);
            let failure = Failure::other(error);
            if busy { failure.with_hint("try again when it has ended".to_owned()) } else { failure }
        })
    })?;
    if args.json {
        ui::json(&serde_json::json!({
            "layers": collected.layers, "images": collected.images, "downloads": collected.downloads,
            "leftovers": collected.leftovers, "bytes": collected.bytes, "dryRun": args.dry_run,
        }))?;
    } else {
        let verb = if args.dry_run { "would be removed" } else { "removed" };
        ui::data(&format!(
            "{} layers, {} images, {} fetched files and {} leftovers {verb} ({} MB)\n",
            collected.layers,
            collected.images,
            collected.downloads,
            collected.leftovers,
            collected.bytes / 1_000_000
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
