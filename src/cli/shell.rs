//! `silo shell`.

use std::ffi::OsString;
use std::process::ExitCode;

use super::context::Globals;
use super::error::Failure;
use super::run;

/// Open a shell in the sandbox of `silo run`
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    visible: run::HostArgs,
    /// The tool
    tool: OsString,
}

/// A shell that every image has.
const SHELL: &str = "/bin/sh";

pub fn run(globals: &Globals, args: Args) -> Result<ExitCode, Failure> {
    run::run(globals, run::Args::program(args.visible, SHELL, args.tool))
}
