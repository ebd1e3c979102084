//! `silo why`.

use std::process::ExitCode;

use silo_insight::why::{self, render};

use super::context::{Globals, open_for_reading, setting};
use super::error::Failure;
use super::ui;

/// Show why a path, a package or a layer is in an image
///
/// Names the layer, the package and the line of the recipe that asked for it.
#[derive(clap::Args)]
#[command(override_usage = "silo why [OPTIONS] [TOOL] <PATH|PACKAGE|LAYER>")]
pub struct Args {
    /// The tool (if several match), then a path, a package, or a prefix of a layer id
    #[arg(required = true, num_args = 1..=2, value_name = "WHAT")]
    words: Vec<String>,
    /// The tool, or a prefix of an image id
    #[arg(long)]
    tool: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let (tool, what) = match (&args.words[..], &args.tool) {
        ([what], tool) => (tool.as_deref(), what),
        ([tool, what], None) => (Some(tool.as_str()), what),
        _ => return Err(Failure::usage("the tool is named twice", "silo why <TOOL> <WHAT>, or silo why <WHAT> --tool <TOOL>")),
    };
    let setting = setting(globals)?;
    let answer = why::why(&open_for_reading(&setting)?, tool, what)?;
    if args.json {
        ui::json(&render::json(&answer))?;
    } else {
        ui::data(&render::text(&answer))?;
    }
    Ok(ExitCode::SUCCESS)
}
