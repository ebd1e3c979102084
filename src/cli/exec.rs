//! `silo exec`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use silo_tool::definition::Scope;

use crate::run::find_program::{self, Wanted};

use super::context::Globals;
use super::env;
use super::error::Failure;
use super::run::{self, HostArgs};
use super::script;

/// Run a program by its name: of the project (.venv/bin, node_modules/.bin), of a tool, or of a tool's image
///
/// The project's tools are searched before the other installed ones. A tool before the program searches this tool only. After a tool that
/// is a command itself (python, go), only programs of the project and other commands of the tool (pip, gofmt) are programs; another word is
/// an argument: `silo exec go test` runs `go test`. `--` after the tool makes any word a program of its image.
/// Silo's options come before the first word; everything after the program goes to it unchanged. Exit codes are those of `silo run`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  silo exec pytest -q\n  silo exec go test ./...\n  silo exec python -- sh -c 'echo $VIRTUAL_ENV'")]
pub struct Args {
    #[command(flatten)]
    visible: HostArgs,
    /// The program and its arguments, with an optional tool before it
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "[TOOL] PROGRAM [ARGUMENTS]...")]
    words: Vec<OsString>,
}

pub fn run(globals: &Globals, args: Args) -> Result<ExitCode, Failure> {
    let Args { visible, words } = args;
    run::launched(globals, visible, |setting, visible| {
        let cwd = env::cwd()?;
        let named = visible.named_project().map(|dir| std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned()));
        let project: &Path = named.as_deref().unwrap_or(&setting.project);
        let scope = visible.scope();
        let project = Some(project).filter(|_| scope == Scope::Project);
        let target = find_program::find(setting.view(), Wanted { words: words.clone(), cwd: &cwd, project, scope })?;
        script::with_dependencies(globals, setting, target)
    })
    .map_err(|failure| failure.or_code(run::SILO_FAILED))
}
