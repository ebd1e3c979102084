//! `silo challenge`.

use std::process::ExitCode;

use silo_base::sanitize;
use silo_tool::challenge::{self, Challenged, DifferentLayer};
use silo_tool::share;

use super::context::{Globals, setting};
use super::error::Failure;
use super::{trust, ui};

/// Build an image of a registry again from its lock, and compare the layers
///
/// The build reuses no layer of this machine, so it takes as long as a first one. The exit code is 1 if a layer differs.
#[derive(clap::Args)]
pub struct Args {
    /// The image: registry.example.com/team/python:3.13, or oci:/path:tag for a directory
    #[arg(value_name = "REF")]
    from: String,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    // A tool of the project is built as the project defines it.
    trust::require(&setting, None)?;
    let from = share::target(&args.from)?;
    let done = setting.with(|context| Ok(challenge::challenge(context, &from)?))?;
    if args.json {
        let row = |layer: &DifferentLayer| {
            serde_json::json!({
                "name": layer.name, "pushed": layer.pushed.map(|id| id.oci()), "built": layer.built.map(|id| id.oci()), "paths": layer.paths,
            })
        };
        ui::json(&serde_json::json!({
            "image": done.found.contents.config.digest.to_string(), "layers": done.layers,
            "different": done.different.iter().map(row).collect::<Vec<_>>(),
        }))?;
    } else {
        ui::data(&text(&done))?;
    }
    Ok(if done.different.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(done: &Challenged) -> String {
    let place = sanitize::line(&done.found.place);
    if done.different.is_empty() {
        return format!("{place}: built again from its lock: the same {} layers\n", done.layers);
    }
    let id =
        |id: Option<silo_store::digest::LayerId>| id.map_or_else(|| "none".to_owned(), |id| format!("{:.12}", id.digest().to_string()));
    let line = |layer: &DifferentLayer| {
        let paths: String = layer.paths.iter().map(|path| format!("  {}\n", sanitize::line(path))).collect();
        format!("{}: {} in the repository, {} here\n{paths}", sanitize::line(&layer.name), id(layer.pushed), id(layer.built))
    };
    let lines: String = done.different.iter().map(line).collect();
    format!("{lines}{place}: {} of {} layers differ\n", done.different.len(), done.layers)
}
