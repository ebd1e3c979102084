//! `silo log`.

use std::process::ExitCode;

use crate::insight::figures;
use crate::insight::log::{self, Log};
use crate::moment;

use super::context::{Globals, look, setting};
use super::error::Failure;
use super::ui;

/// Show what the steps of an image said while they ran, or list all logs
#[derive(clap::Args)]
pub struct Args {
    /// An installed tool, or the beginning of a derivation; without it, all logs are listed
    step: Option<String>,
    /// Print the paths of the log files
    #[arg(long)]
    path: bool,
    /// Print the list as JSON
    #[arg(long, conflicts_with = "path")]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let look = look(&setting)?;
    let logs = match &args.step {
        Some(word) => log::named(&look, word)?,
        None => log::list(&look)?,
    };
    if args.path {
        ui::data(&logs.iter().map(|log| format!("{}\n", log.path.display())).collect::<String>())?;
    } else if args.json {
        ui::json(&logs.iter().map(json).collect())?;
    } else if args.step.is_none() {
        ui::data(&logs.iter().map(line).collect::<String>())?;
    } else {
        for (number, found) in logs.iter().enumerate() {
            if logs.len() > 1 {
                let gap = if number > 0 { "\n" } else { "" };
                ui::data(&format!("{gap}==> {} ({:.12})\n", step(found), found.derivation.to_string()))?;
            }
            ui::bytes(&log::read(found)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn step(log: &Log) -> String {
    log.step.as_deref().map_or_else(|| "made no layer".to_owned(), figures::one_line)
}

fn line(log: &Log) -> String {
    let tools = if log.tools.is_empty() { String::new() } else { format!("  of {}", log.tools.join(", ")) };
    let size = figures::bytes(log.bytes);
    format!("{:.12}  {}  {size:>9}  {}{tools}\n", log.derivation.to_string(), moment::rfc3339(log.written), step(log))
}

fn json(log: &Log) -> serde_json::Value {
    serde_json::json!({
        "derivation": log.derivation.to_string(), "path": log.path.display().to_string(), "bytes": log.bytes,
        "written": moment::rfc3339(log.written), "step": log.step, "tools": log.tools,
    })
}
