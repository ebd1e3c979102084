//! `silo completions`.

use std::process::ExitCode;

use super::error::Failure;
use super::{definition, ui};

/// Print completions for a shell
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut definition::command(), "silo", &mut text);
    ui::data(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}
