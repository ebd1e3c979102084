//! `silo graph`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use silo_base::sanitize;
use silo_insight::graph::{self, svg, text_formats};
use silo_insight::image_view;

use super::context::{Globals, open_for_reading, setting};
use super::error::Failure;
use super::ui;

/// Draw the build graph of an image: packages, steps, image
#[derive(clap::Args)]
pub struct Args {
    /// An installed tool, or a prefix of an image id
    image: String,
    /// Output format; by default that of the ending of --output, else svg
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// SVG picture for light and dark pages
    Svg,
    /// Mermaid diagram for Markdown
    Mermaid,
    /// Graphviz graph
    Dot,
    /// Every layer with its inputs
    Json,
}

/// Endings of files, with their formats.
const ENDINGS: [(&str, Format); 6] = [
    ("svg", Format::Svg),
    ("mmd", Format::Mermaid),
    ("mermaid", Format::Mermaid),
    ("dot", Format::Dot),
    ("gv", Format::Dot),
    ("json", Format::Json),
];

/// Returns the format of a file by its ending.
fn format_of(output: Option<&Path>) -> Result<Format, Failure> {
    let Some(ending) = output.and_then(Path::extension) else { return Ok(Format::Svg) };
    let known = ENDINGS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known));
    known.map(|(_, format)| *format).ok_or_else(|| {
        let hint = "--format names the format; `silo graph TOOL --format dot | dot -Tpng -o FILE` draws other formats";
        Failure::usage(format!("no graph format has files that end in .{}", sanitize::line(&ending.to_string_lossy())), hint)
    })
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let format = args.format.map_or_else(|| format_of(args.output.as_deref()), Ok)?;
    let setting = setting(globals)?;
    let home = open_for_reading(&setting)?;
    let inside = image_view::named(&home, &args.image)?;
    let head = graph::head(&inside);
    let graph = graph::graph(&head, &inside.layers);
    let text = match format {
        Format::Svg => svg::write(&graph),
        Format::Mermaid => text_formats::mermaid(&graph),
        Format::Dot => text_formats::dot(&graph),
        Format::Json => {
            ui::json_to(args.output.as_deref(), &text_formats::json(&head, &inside.layers))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    ui::data_to(args.output.as_deref(), &text)?;
    Ok(ExitCode::SUCCESS)
}
