//! The command line: one definition for parsing, help, manual and completions; one file per command.

mod definition;
mod error;

mod captured_stderr;
mod env;
mod flags;
mod restore_tty;

mod ui;

mod progress;

mod context;

mod apart;
mod full_screen;
mod overlay;
mod requested;
mod server_process;
mod timing;

mod deciding;
mod gc;
mod log_runs;
mod picker;

mod browser_screen;
mod stored_reviews;

mod browser;

#[cfg(feature = "remote")]
mod doctor_remote;
#[cfg(feature = "remote")]
mod remote;
#[cfg(not(feature = "remote"))]
#[path = "remote_absent.rs"]
mod remote;

mod add;
mod apply;
mod argv0;
mod build;
mod cache;
mod challenge;
mod choose_tool;
mod completions;
mod config;
mod current;
mod debug;
mod diff;
mod discard;
mod doctor;
mod exec;
mod export;
mod graph;
mod groups;
mod ide;
mod init;
mod install;
mod key;
mod legacy;
mod list;
mod lock;
mod log;
mod lsp;
mod man;
mod migrate;
mod parsed;
mod ports;
mod projects;
mod pull;
mod push;
mod reset;
mod review;
mod run;
mod sbom;
mod schema;
mod script;
mod settings;
mod shell;
mod shellenv;
mod shims;
mod show;
mod step;
mod sync;
mod tier;
mod trust;
mod uninstall;
mod update;
mod use_tool;
mod vendor;
mod verify;
mod which;
mod why;
mod x;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use silo_base::sanitize;

use context::Globals;
use error::Failure;
use flags::Verbosity;

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
    Init(init::Args),
    Install(install::Args),
    Uninstall(uninstall::Args),
    Run(run::Args),
    Exec(exec::Args),
    X(x::Args),
    Shell(shell::Args),
    Lsp(lsp::Args),
    Ide(ide::Args),
    List(list::Args),
    Search(list::SearchArgs),
    Show(show::Args),
    Use(use_tool::UseArgs),
    Unuse(use_tool::UnuseArgs),
    Add(add::Args),
    Build(build::Args),
    Debug(debug::Args),
    Sync(sync::Args),
    Current(current::Args),
    Pin(shims::PinArgs),
    Unpin(shims::UnpinArgs),
    Shim(shims::Args),
    Which(which::Args),
    Shellenv(shellenv::Args),
    Lock(lock::Args),
    Outdated(update::OutdatedArgs),
    Upgrade(update::UpgradeArgs),
    Review(review::Args),
    Apply(apply::Args),
    Discard(discard::Args),
    Config(config::Args),
    Trust(trust::Args),
    Doctor(doctor::Args),
    Verify(verify::Args),
    Why(why::Args),
    Graph(graph::Args),
    Diff(diff::Args),
    Log(log::Args),
    Sbom(sbom::Args),
    Export(export::Args),
    Push(push::Args),
    Pull(pull::Args),
    Inspect(pull::InspectArgs),
    Key(key::Args),
    Tag(push::TagArgs),
    Vendor(vendor::Args),
    Challenge(challenge::Args),
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
    #[cfg(feature = "remote")]
    #[command(name = remote::WORD, hide = true)]
    RemoteStep(remote::Args),
    #[cfg(feature = "remote")]
    #[command(name = remote::SSH_WORD, hide = true)]
    RemoteWorker(remote::SshArgs),
    /// A tool, or a shim of one
    #[command(external_subcommand)]
    Tool(Vec<OsString>),
}

/// Runs a command line. `args[0]` is the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    ui::report_panics();
    definition::register(command);
    if let Some(code) = argv0::by_another_name(&args) {
        return code;
    }
    if let Ok(home) = env::silo_home() {
        restore_tty::give_back(&home);
    }
    let args = legacy::translated(args);
    let cli: Cli = match parsed::parse(&args, command) {
        Ok(cli) => cli,
        Err(error) => {
            return match report_usage(&args, &error) {
                Ok(()) => ExitCode::from(usage_code(&args, &error)),
                Err(failure) => ui::report(&failure),
            };
        }
    };
    if let Some(name) = attended(&cli.command) {
        progress::attend(name, Verbosity::of_flag(cli.globals.quiet));
    }
    let done = dispatch(cli);
    progress::finish_command();
    match done {
        Ok(code) => code,
        Err(failure) => ui::report(&failure),
    }
}

/// Reports a clap error. Clap quotes arguments unescaped, so this parses escaped arguments again and prints that error.
fn report_usage(args: &[OsString], error: &clap::Error) -> Result<(), Failure> {
    let escaped: Vec<OsString> = args.iter().map(|arg| sanitize::bytes(arg.as_encoded_bytes()).into()).collect();
    match parsed::parse::<Cli>(&escaped, command) {
        Err(again) if again.kind() == error.kind() => ui::styled(&again),
        _ => {
            ui::line(error.to_string().trim_end());
            Ok(())
        }
    }
}

/// Returns the exit code for a clap error. A command that starts a program has the program's exit codes, so its own errors have another.
fn usage_code(args: &[OsString], error: &clap::Error) -> u8 {
    match error.exit_code() {
        0 => 0,
        _ if parsed::starts_program(args) => run::SILO_FAILED,
        code => u8::try_from(code).unwrap_or(2),
    }
}

/// Definition of the command line.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let template = groups::template(&command);
    command.help_template(template)
}

/// Returns the name of a command that works by itself, so that it gives a sign of life each second. The others start programs, serve or ask.
fn attended(command: &Command) -> Option<&'static str> {
    Some(match command {
        Command::Install(_) => "install",
        Command::Uninstall(_) => "uninstall",
        Command::Use(_) => "use",
        Command::Unuse(_) => "unuse",
        Command::Add(_) => "add",
        Command::Build(_) => "build",
        Command::Sync(_) => "sync",
        Command::Lock(_) => "lock",
        Command::Outdated(_) => "outdated",
        Command::Upgrade(_) => "upgrade",
        Command::Doctor(_) => "doctor",
        Command::Verify(_) => "verify",
        Command::Why(_) => "why",
        Command::Graph(_) => "graph",
        Command::Diff(_) => "diff",
        Command::Sbom(_) => "sbom",
        Command::Export(_) => "export",
        Command::Push(_) => "push",
        Command::Pull(_) => "pull",
        Command::Inspect(_) => "inspect",
        Command::Tag(_) => "tag",
        Command::Vendor(_) => "vendor",
        Command::Challenge(_) => "challenge",
        Command::Gc(_) => "gc",
        Command::Cache(_) => "cache",
        Command::Prune(_) => "prune",
        Command::Clean(_) => "clean",
        Command::Review(args) if !args.waits_for_program() => "review",
        Command::Apply(_) => "apply",
        Command::Config(_) => "config",
        _ => return None,
    })
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let globals = &cli.globals;
    match cli.command {
        Command::Init(args) => init::run(globals, &args),
        Command::Install(args) => install::run(globals, &args),
        Command::Uninstall(args) => uninstall::run(globals, &args),
        Command::Run(args) => run::run(globals, args),
        Command::Exec(args) => exec::run(globals, args),
        Command::X(args) => x::run(globals, args),
        Command::Shell(args) => shell::run(globals, args),
        Command::Lsp(args) => lsp::run(globals, args),
        Command::Ide(args) => ide::run(globals, &args),
        Command::List(args) => list::run(globals, &args),
        Command::Search(args) => list::search(globals, &args),
        Command::Show(args) => show::run(globals, &args),
        Command::Use(args) => use_tool::run_use(globals, &args),
        Command::Unuse(args) => use_tool::run_unuse(globals, &args),
        Command::Add(args) => add::run(globals, &args),
        Command::Build(args) => build::run(globals, &args),
        Command::Debug(args) => debug::run(globals, &args),
        Command::Sync(args) => sync::run(globals, &args),
        Command::Current(args) => current::run(globals, &args),
        Command::Pin(args) => shims::pin(globals, &args),
        Command::Unpin(args) => shims::unpin(globals, &args),
        Command::Shim(args) => shims::run(globals, &args),
        Command::Which(args) => which::run(globals, &args),
        Command::Shellenv(args) => shellenv::run(&args),
        Command::Outdated(args) => update::run_outdated(globals, &args),
        Command::Upgrade(args) => update::run_upgrade(globals, &args),
        Command::Lock(args) => lock::run(globals, &args),
        Command::Review(args) => review::run(globals, &args),
        Command::Apply(args) => apply::run(globals, &args),
        Command::Discard(args) => discard::run(globals, &args),
        Command::Config(args) => config::run(globals, &args),
        Command::Trust(args) => trust::run(globals, &args),
        Command::Doctor(args) => doctor::run(globals, &args),
        Command::Verify(args) => verify::run(globals, &args),
        Command::Why(args) => why::run(globals, &args),
        Command::Graph(args) => graph::run(globals, &args),
        Command::Diff(args) => diff::run(globals, &args),
        Command::Log(args) => log::run(globals, &args),
        Command::Sbom(args) => sbom::run(globals, &args),
        Command::Export(args) => export::run(globals, &args),
        Command::Push(args) => push::run(globals, &args),
        Command::Pull(args) => pull::run(globals, &args),
        Command::Inspect(args) => pull::inspect(globals, &args),
        Command::Key(args) => key::run(globals, &args),
        Command::Tag(args) => push::tag(globals, &args),
        Command::Vendor(args) => vendor::run(globals, &args),
        Command::Challenge(args) => challenge::run(globals, &args),
        Command::Gc(args) => gc::run(globals, &args),
        Command::Cache(args) => cache::run(globals, &args),
        Command::Prune(args) => gc::prune(globals, &args),
        Command::Projects(args) => projects::run(globals, &args),
        Command::Clean(args) => projects::clean(globals, &args),
        Command::Reset(args) => reset::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Schema(args) => schema::run(&args),
        #[cfg(feature = "remote")]
        Command::RemoteStep(args) => remote::serve(&args),
        #[cfg(feature = "remote")]
        Command::RemoteWorker(_) => remote::serve_ssh(),
        Command::Step(args) => step::run(&args),
        Command::Tool(words) => run::run(globals, run::Args::shorthand(words)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::ArgMatches;

    use super::*;
    use crate::run::grammar::{self, Commands, Known, TypedWords};

    fn known() -> Known {
        let commands = |command: &str, shims: &[&str]| Commands {
            command: vec![command.to_owned()],
            shims: shims.iter().map(|name| ((*name).to_owned(), vec![(*name).to_owned()])).collect::<BTreeMap<_, _>>(),
            ..Commands::default()
        };
        Known::from([
            ("python".to_owned(), commands("python3", &["python", "python3", "pip", "pip3"])),
            ("node".to_owned(), commands("node", &["node", "npm", "npx"])),
            ("claude-code".to_owned(), commands("claude", &["claude"])),
        ])
    }

    fn many(matches: &ArgMatches, name: &str) -> Vec<OsString> {
        matches.get_raw(name).into_iter().flatten().map(OsString::from).collect()
    }

    fn list(words: &[OsString]) -> String {
        serde_json::json!(words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>()).to_string()
    }

    /// Returns the given options as typed.
    fn options(name: &str, matches: &ArgMatches) -> String {
        let definition = command();
        let options = definition.find_subcommand(name).expect("a command").get_opts();
        let given = |arg: &&clap::Arg| matches.value_source(arg.get_id().as_str()) == Some(clap::parser::ValueSource::CommandLine);
        options.filter(given).filter(|arg| arg.get_id() != "shim").map(|arg| format!("--{} ", arg.get_long().expect("long"))).collect()
    }

    fn run_told(options: String, word: &str, program: Option<OsString>, rest: &[OsString]) -> String {
        let (older, rest) = grammar::older_options(rest).unwrap_or_else(|| (grammar::LegacyOptions::default(), rest));
        let options = if older.timing { format!("{options}--timing ") } else { options };
        match grammar::meaning(TypedWords { word, program: program.or(older.program), rest: rest.to_vec() }, &known()) {
            Ok(meant) => {
                let other = meant.other.map_or_else(String::new, |other| format!(" (a command of {other})"));
                format!("run {options}{} {}{other}", meant.tool, list(&meant.argv))
            }
            Err(unclear) => format!("{unclear:?}"),
        }
    }

    fn describe(words: &[String]) -> String {
        definition::register(command);
        let args = ["silo".to_owned()].iter().chain(words).map(OsString::from).collect();
        let matches = match command().try_get_matches_from(legacy::translated(args)) {
            Ok(matches) => matches,
            Err(error) => return error.kind().to_string(),
        };
        let (name, sub) = matches.subcommand().expect("a command");
        match name {
            "run" => {
                let words = many(sub, "words");
                let word = words[0].to_string_lossy().into_owned();
                run_told(options("run", sub), &word, many(sub, "shim").pop(), &words[1..])
            }
            "build" => {
                let tool = many(sub, "tool").pop().map_or_else(String::new, |tool| format!("{} ", tool.to_string_lossy()));
                format!("build {}{tool}{}", options("build", sub), list(&many(sub, "command")))
            }
            "shim" => {
                let (action, sub) = sub.subcommand().expect("an action");
                let tool = many(sub, "tool").pop().expect("a tool");
                format!("shim {action} {} {}", tool.to_string_lossy(), list(&many(sub, "shims")))
            }
            tool => run_told(String::new(), tool, None, &many(sub, "")),
        }
    }

    #[test]
    fn vectors_are_golden() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/grammar/vectors.txt");
        let text = std::fs::read_to_string(path).expect("a file of ours");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (words, expect) = line.split_once(" -> ").expect("words and what they mean");
            let words: Vec<String> = serde_json::from_str(words).expect("words");
            assert_eq!(describe(&words), expect, "{words:?}");
        }
    }

    #[test]
    fn commands_are_reserved() {
        definition::register(command);
        let reserved = legacy::reserved();
        for word in ["run", "add", "pin", "unpin", "clean", "projects", "shellenv", "shim", "which", "setup", "pull", "help", "version"] {
            assert!(reserved.iter().any(|reserved| reserved == word), "{word}");
        }
    }
}
