//! `silo graph`.

use std::path::PathBuf;
use std::process::ExitCode;

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
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Svg)]
    format: Format,
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

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let home = open_for_reading(&setting)?;
    let inside = image_view::named(&home, &args.image)?;
    let head = graph::head(&inside);
    let graph = graph::graph(&head, &inside.layers);
    let text = match args.format {
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
