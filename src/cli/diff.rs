//! `silo diff`.

use std::process::ExitCode;

use silo_insight::diff::{self, render};
use silo_insight::image_view;

use super::context::{Globals, open_for_reading, setting};
use super::error::Failure;
use super::ui;

/// Compare two images or layers, by package and by path
///
/// The exit code is 0 if they are equal and 1 if they differ.
#[derive(clap::Args)]
pub struct Args {
    /// An installed tool, or a prefix of an image or layer id
    a: String,
    /// The tool, image or layer to compare with
    b: String,
    /// Compare only the packages
    #[arg(long, conflicts_with = "paths")]
    packages: bool,
    /// Compare only the paths, and list every one
    #[arg(long)]
    paths: bool,
    /// Print the difference as JSON
    #[arg(long)]
    json: bool,
}

/// Exit code if the two differ, as in diff(1).
const DIFFERENT: u8 = 1;
/// Exit code if the comparison failed, as in diff(1).
const TROUBLE: u8 = 2;

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    compare(globals, args).map_err(|failure| failure.or_code(TROUBLE))
}

fn compare(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let part = match (args.packages, args.paths) {
        (true, _) => render::Part::Packages,
        (false, true) => render::Part::Paths,
        (false, false) => render::Part::Outline,
    };
    let setting = setting(globals)?;
    let home = open_for_reading(&setting)?;
    let a = diff::side(&home, &image_view::subject(&home, &args.a)?)?;
    let b = diff::side(&home, &image_view::subject(&home, &args.b)?)?;
    let difference = part.of(diff::diff(&a, &b));
    if args.json {
        ui::json(&render::json(&a, &b, &difference, part))?;
    } else if !difference.is_empty() {
        ui::data(&render::text(&a, &b, &difference, part))?;
    }
    Ok(if difference.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}
