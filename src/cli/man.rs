//! `silo man`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::error::Failure;
use super::{definition, ui};

/// Print the manual, or write one page per command
#[derive(clap::Args)]
pub struct Args {
    /// Write silo.1 and a page per command into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(definition::command(), dir).map_err(|error| {
            Failure::found(format!("cannot write the manual to {}: {error}", dir.display()), "name a directory that exists")
        })?,
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(definition::command()).render(&mut text).map_err(Failure::other)?;
            ui::data(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
