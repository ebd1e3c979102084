//! `silo sbom`.

use std::path::PathBuf;
use std::process::ExitCode;

use silo_insight::image_view;
use silo_insight::sbom::{self, cyclonedx, spdx};

use super::context::{Globals, open_for_reading, setting};
use super::error::Failure;
use super::ui;

/// Print the software bill of materials of an image
#[derive(clap::Args)]
pub struct Args {
    /// An installed tool, or a prefix of an image id
    image: String,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Spdx)]
    format: Format,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// SPDX 2.3, as JSON
    Spdx,
    /// CycloneDX 1.6, as JSON
    Cyclonedx,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let bill = sbom::bill(&image_view::named(&open_for_reading(&setting)?, &args.image)?)?;
    let value = match args.format {
        Format::Spdx => spdx::write(&bill),
        Format::Cyclonedx => cyclonedx::write(&bill),
    };
    ui::json_to(args.output.as_deref(), &value)?;
    Ok(ExitCode::SUCCESS)
}
