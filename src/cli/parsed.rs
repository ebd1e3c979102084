//! Parses the command line.
//!
//! The definition of all commands takes a million instructions, which is a third of a start. So a command line that starts a program is
//! parsed with the definition of its command alone. If that fails, the whole definition decides, and its error is the one that is shown.

use std::ffi::OsString;

use clap::{ArgMatches, Args, FromArgMatches, value_parser};

use super::context::Globals;
use super::{exec, legacy, lsp, run, shell, x};

/// The names of all commands but the hidden ones, which start with `__`. No tool can have them.
const NAMES: [&str; 56] = [
    "add",
    "apply",
    "build",
    "cache",
    "challenge",
    "clean",
    "completions",
    "config",
    "current",
    "debug",
    "diff",
    "discard",
    "doctor",
    "exec",
    "export",
    "gc",
    "graph",
    "ide",
    "init",
    "inspect",
    "install",
    "key",
    "list",
    "lock",
    "log",
    "lsp",
    "man",
    "outdated",
    "pin",
    "projects",
    "prune",
    "pull",
    "push",
    "reset",
    "review",
    "run",
    "sbom",
    "schema",
    "search",
    "shell",
    "shellenv",
    "shim",
    "show",
    "sync",
    "tag",
    "trust",
    "uninstall",
    "unpin",
    "unuse",
    "upgrade",
    "use",
    "vendor",
    "verify",
    "which",
    "why",
    "x",
];

/// Parses a command line by the whole definition, or by a part with the same result; `args[0]` is the program's name.
pub fn parse<T: FromArgMatches>(args: &[OsString], definition: fn() -> clap::Command) -> Result<T, clap::Error> {
    if let [_, word] = args
        && (word == "--version" || word == "-V")
    {
        clap::Command::new("silo").version(env!("CARGO_PKG_VERSION")).try_get_matches_from(args)?;
    }
    if let Some(cli) = with_one_definition(args).and_then(|matches| T::from_arg_matches(&matches).ok()) {
        return Ok(cli);
    }
    let mut command = definition();
    let matches = command.try_get_matches_from_mut(args)?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Parses a command line that starts a program; `None` for another one, and for one with an error.
fn with_one_definition(args: &[OsString]) -> Option<ArgMatches> {
    let word = args.get(legacy::first_word(args))?.to_str()?;
    let silo = Globals::augment_args(clap::Command::new("silo"));
    let named = |augment: fn(clap::Command) -> clap::Command| augment(clap::Command::new(word.to_owned()));
    let silo = match word {
        "run" => silo.subcommand(named(run::Args::augment_args)),
        "exec" => silo.subcommand(named(exec::Args::augment_args)),
        "x" => silo.subcommand(named(x::Args::augment_args)),
        "shell" => silo.subcommand(named(shell::Args::augment_args)),
        "lsp" => silo.subcommand(named(lsp::Args::augment_args)),
        _ if is_tool(word) => silo.allow_external_subcommands(true).external_subcommand_value_parser(value_parser!(OsString)),
        _ => return None,
    };
    let matches = silo.disable_help_subcommand(true).try_get_matches_from(args).ok()?;
    // The value of an option before the command is not the command.
    (matches.subcommand_name() == Some(word)).then_some(matches)
}

/// True if a command line has a command that starts a program.
pub fn starts_program(args: &[OsString]) -> bool {
    let word = args.get(legacy::first_word(args)).and_then(|word| word.to_str());
    word.is_some_and(|word| ["run", "exec", "x", "shell", "lsp"].contains(&word) || is_tool(word))
}

/// True for a word that can only be the name of a tool or of a shim.
fn is_tool(word: &str) -> bool {
    word.starts_with(|letter: char| letter.is_ascii_alphanumeric()) && NAMES.binary_search(&word).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;

    #[test]
    fn all_commands_are_named() {
        let definition = command();
        let mut names: Vec<&str> =
            definition.get_subcommands().flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases())).collect();
        names.retain(|name| !name.starts_with("__"));
        names.sort_unstable();
        assert_eq!(names, NAMES);
    }

    /// The given values of a command line, with those of its command.
    fn given(matches: &ArgMatches) -> Vec<String> {
        let values = |matches: &ArgMatches| -> Vec<String> {
            let ids = matches.ids().map(clap::Id::as_str).filter(|id| matches.try_get_raw(id).is_ok_and(|raw| raw.is_some()));
            ids.map(|id| format!("{id} {:?} {:?}", matches.get_raw(id).map(Iterator::collect::<Vec<_>>), matches.value_source(id)))
                .collect()
        };
        let (name, sub) = matches.subcommand().expect("a command");
        let mut all = [values(matches), values(sub)].concat();
        all.sort();
        all.push(name.to_owned());
        all
    }

    #[test]
    fn one_definition_gives_the_matches_of_all() {
        for (line, is_short) in [
            ("silo run python", true),
            ("silo -q run --no-project python -c pass --help", true),
            ("silo run --project /x --port 8080 -p 1:2 --env A=b --allow x:1 --memory 2G --cpus 2 --max-time 3s python a b", true),
            ("silo run --review python", true),
            ("silo run --quiet python -q", true),
            ("silo exec python pip list", true),
            ("silo x ruff check", true),
            ("silo shell python", true),
            ("silo python --version -x", true),
            ("silo --quiet node a.js", true),
            ("silo lsp python", true),
            ("silo --platform linux/arm64 run python", false),
            ("silo --platform=linux/arm64 run python", true),
            ("silo run --nonsense python", true),
            ("silo list", false),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let all = command().try_get_matches_from(&args).expect(line);
            let short = with_one_definition(&args);
            assert_eq!(short.is_some(), is_short, "{line}");
            assert!(short.is_none_or(|short| given(&short) == given(&all)), "{line}");
        }
        for line in ["silo", "silo run", "silo run --help", "silo --version", "silo --help", "silo exec -h"] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(with_one_definition(&args).is_none(), "{line}");
            assert!(command().try_get_matches_from(&args).is_err(), "{line}");
        }
    }
}
