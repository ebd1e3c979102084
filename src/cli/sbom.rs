//! `silo sbom`.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::insight::inside;
use crate::insight::sbom::{self, cyclonedx, spdx};

use super::context::{Globals, look, setting};
use super::error::Failure;
use super::ui;

/// List what is in an image as a bill of materials
#[derive(clap::Args)]
pub struct Args {
    /// An installed tool, or the beginning of an image's id
    image: String,
    /// The form of the list
    #[arg(long, value_enum, default_value_t = Format::Spdx)]
    format: Format,
    /// Write to a file and not to standard output
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
    let bill = sbom::bill(&inside::named(&look(&setting)?, &args.image)?)?;
    let value = match args.format {
        Format::Spdx => spdx::write(&bill),
        Format::Cyclonedx => cyclonedx::write(&bill),
    };
    ui::json_to(args.output.as_deref(), &value)?;
    Ok(ExitCode::SUCCESS)
}
