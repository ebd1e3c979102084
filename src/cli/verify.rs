//! `silo verify`.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_tool::verify::{self, VerifyScope};

use super::context::{Globals, setting};
use super::error::Failure;
use super::ui;

/// Hash all images and layers in use, and report changed files
#[derive(clap::Args)]
pub struct Args {
    /// Only these tools
    tools: Vec<String>,
    /// Every image and layer, also unneeded ones
    #[arg(long, conflicts_with = "tools")]
    all: bool,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let wish = match (args.all, args.tools.as_slice()) {
        (true, _) => VerifyScope::All,
        (false, []) => VerifyScope::Used,
        (false, tools) => VerifyScope::Tools(tools.to_vec()),
    };
    let findings = setting.with(|context| verify::verify(context, &wish).map_err(Failure::other))?;
    if args.json {
        ui::json(&serde_json::json!({ "layers": findings.layers, "bytes": findings.bytes, "faults": findings.faults }))?;
    } else {
        let faults: String = findings.faults.iter().map(|fault| sanitize::line(fault) + "\n").collect();
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
        "files in the store were changed",
        "`silo uninstall` and `silo gc --all` remove the tool; `silo install` builds it again",
    ))
}
