//! `silo shell`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::context::Globals;
use super::error::Failure;
use super::run;

/// Open a shell in the sandbox that `silo run` gives the tool
#[derive(clap::Args)]
pub struct Args {
    /// Show this directory as the project instead of the one around the working directory
    #[arg(long, value_name = "DIR", conflicts_with = "no_project")]
    project: Option<PathBuf>,
    /// Show no project at all
    #[arg(long)]
    no_project: bool,
    /// Show the project although it holds your home directory, keys or the whole machine
    #[arg(long)]
    expose: bool,
    /// The tool
    tool: OsString,
}

/// The shell that every image has.
const SHELL: &str = "/bin/sh";

pub fn run(globals: &Globals, args: Args) -> Result<ExitCode, Failure> {
    run::run(globals, run::Args::program(args.project, args.no_project, args.expose, SHELL, args.tool))
}
