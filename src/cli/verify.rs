//! `silo verify`.

use std::process::ExitCode;

use crate::tool::verify;

use super::context::{Globals, setting};
use super::error::Failure;
use super::ui;

/// Hash all that installed tools stand on, and tell what was changed
#[derive(clap::Args)]
pub struct Args {
    /// The tools; by default all that are installed
    tools: Vec<String>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let findings = setting.with(|context| verify::verify(context, &args.tools).map_err(Failure::other))?;
    if args.json {
        ui::json(&serde_json::json!({ "layers": findings.layers, "bytes": findings.bytes, "faults": findings.faults }))?;
    } else {
        let faults: String = findings.faults.iter().map(|fault| format!("{fault}\n")).collect();
        ui::data(&format!(
            "{faults}{} layers, {} MB hashed, {} faults\n",
            findings.layers,
            findings.bytes / 1_000_000,
            findings.faults.len()
        ))?;
    }
    if findings.faults.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::found(
        "the store is not as it was made",
        "`silo gc --all` after `silo uninstall` removes it; `silo install` makes it anew",
    ))
}
