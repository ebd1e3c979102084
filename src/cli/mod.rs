//! The command line: one definition for parsing, help, the manual and completions; one file a command.

mod env;
mod error;
mod ui;

mod context;

mod overlay;

mod gc;

mod add;
mod build;
mod cache;
mod completions;
mod config;
mod debug;
mod diff;
mod doctor;
mod graph;
mod install;
mod list;
mod lock;
mod log;
mod man;
mod pins;
mod ports;
mod projects;
mod reach;
mod reset;
mod run;
mod sbom;
mod schema;
mod shell;
mod show;
mod step;
mod sync;
mod trust;
mod uninstall;
mod update;
mod verify;
mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use context::Globals;
use error::Failure;

/// Run dev tools in throw-away sandboxes built from pinned, reproducible images
///
/// `silo <tool> [arguments]` is short for `silo run <tool> [arguments]`.
#[derive(Parser)]
#[command(
    name = "silo",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  silo install python\n  silo python script.py\n  silo shell python\n  silo lock python --update"
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Install(install::Args),
    Uninstall(uninstall::Args),
    Run(run::Args),
    Shell(shell::Args),
    List(list::Args),
    Search(list::SearchArgs),
    Show(show::Args),
    Use(pins::UseArgs),
    Unuse(pins::UnuseArgs),
    Add(add::Args),
    Build(build::Args),
    Debug(debug::Args),
    Sync(sync::Args),
    Lock(lock::Args),
    Outdated(update::OutdatedArgs),
    Upgrade(update::UpgradeArgs),
    Config(config::Args),
    Trust(trust::Args),
    Doctor(doctor::Args),
    Verify(verify::Args),
    Why(why::Args),
    Graph(graph::Args),
    Diff(diff::Args),
    Log(log::Args),
    Sbom(sbom::Args),
    Gc(gc::Args),
    Cache(cache::Args),
    Prune(gc::PruneArgs),
    Projects(projects::Args),
    Clean(projects::CleanArgs),
    Reset(reset::Args),
    Completions(completions::Args),
    Man(man::Args),
    Schema(schema::Args),
    #[command(name = step::WORD, hide = true)]
    Step(step::Args),
    /// A tool, or a shim of one
    #[command(external_subcommand)]
    Tool(Vec<OsString>),
}

/// Runs the command line `args`, the program's own name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are no errors; where the reader has gone there is nobody to tell.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return ExitCode::from(2);
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The first words that can name no tool, because they are commands.
fn reserved() -> Vec<String> {
    command().get_subcommands().map(|command| command.get_name().to_owned()).chain(["help".to_owned(), "version".to_owned()]).collect()
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let globals = &cli.globals;
    match cli.command {
        Command::Install(args) => install::run(globals, &args),
        Command::Uninstall(args) => uninstall::run(globals, &args),
        Command::Run(args) => run::run(globals, args),
        Command::Shell(args) => shell::run(globals, args),
        Command::List(args) => list::run(globals, &args),
        Command::Search(args) => list::search(globals, &args),
        Command::Show(args) => show::run(globals, &args),
        Command::Use(args) => pins::run_use(globals, &args),
        Command::Unuse(args) => pins::run_unuse(globals, &args),
        Command::Add(args) => add::run(globals, &args),
        Command::Build(args) => build::run(globals, &args),
        Command::Debug(args) => debug::run(globals, &args),
        Command::Sync(args) => sync::run(globals, &args),
        Command::Outdated(args) => update::run_outdated(globals, &args),
        Command::Upgrade(args) => update::run_upgrade(globals, &args),
        Command::Lock(args) => lock::run(globals, &args),
        Command::Config(args) => config::run(globals, &args),
        Command::Trust(args) => trust::run(globals, &args),
        Command::Doctor(args) => doctor::run(globals, &args),
        Command::Verify(args) => verify::run(globals, &args),
        Command::Why(args) => why::run(globals, &args),
        Command::Graph(args) => graph::run(globals, &args),
        Command::Diff(args) => diff::run(globals, &args),
        Command::Log(args) => log::run(globals, &args),
        Command::Sbom(args) => sbom::run(globals, &args),
        Command::Gc(args) => gc::run(globals, &args),
        Command::Cache(args) => cache::run(globals, &args),
        Command::Prune(args) => gc::prune(globals, &args),
        Command::Projects(args) => projects::run(globals, &args),
        Command::Clean(args) => projects::clean(globals, &args),
        Command::Reset(args) => reset::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Step(args) => step::run(&args),
        Command::Tool(words) => run::run(globals, run::Args::shorthand(words)),
    }
}
