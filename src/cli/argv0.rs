//! Handles a call by another name than `silo`: the program was started as a shim.
//!
//! This runs before everything else, even before the command line is defined. Most shim calls are passed on to the next program on PATH, so
//! they must add no noticeable delay. `silo_tool::shim` decides which program gets a call.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use silo_base::home::{Home, PROGRAM};
use silo_model::config::discover;
use silo_model::config::project::ProjectFiles;
use silo_model::recipe::catalog;
use silo_tool::shim::fall_through::{self, Choice};
use silo_tool::shim::table::{self, Entry};
use silo_tool::shim::{HANDED_ON, MOST_HANDED_ON, claims, launchers, search};
use silo_tool::shims;

use super::context::Globals;
use super::error::Failure;
use super::run::SILO_FAILED;
use super::{env, run, trust, ui};

/// A shell's exit codes for a program that was not found and for one that cannot be executed.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs as a shim: from a launcher script, or from an older shim, which is a symlink to the program.
pub fn by_another_name(args: &[OsString]) -> Option<ExitCode> {
    let home = match (env::silo_home(), launched(args)) {
        (Ok(home), _) => home,
        (Err(failure), Some(_)) => return Some(ui::report(&failure)),
        (Err(_), None) => return None,
    };
    let done = match launched(args) {
        Some((name, args)) => {
            shim(&home, name, args).unwrap_or_else(|| match run_next_on_path(&home, &name.to_string_lossy(), args, &[]) {
                Ok(never) => match never {},
                Err(failure) => Err(failure),
            })
        }
        None => {
            let name = Path::new(args.first()?).file_name().filter(|name| *name != PROGRAM)?;
            if home.shim(name.to_str()?).is_symlink() {
                // Replace the old symlink by a launcher for later calls. This call continues even if that fails.
                drop(env::found_as(&home).map(|program| shims::renew(&home, &program)));
            }
            // Without a shim of this name, the user renamed the program: not a shim call.
            shim(&home, name, args)?
        }
    };
    Some(done.unwrap_or_else(|failure| ui::report(&failure)))
}

/// Returns the shim's name from the launcher's argument, and the arguments from the launcher's own path on.
fn launched(args: &[OsString]) -> Option<(&OsStr, &[OsString])> {
    let name = args.get(1)?.as_encoded_bytes().strip_prefix(launchers::CALLED_AS.as_bytes())?;
    let name = OsStr::from_bytes(name);
    (args.len() > 2 && name.to_str().is_some_and(table::is_shim_name)).then_some((name, &args[2..]))
}

fn shim(home: &Home, name: &OsStr, args: &[OsString]) -> Option<Result<ExitCode, Failure>> {
    let table = match table::read(&home.shims()) {
        Ok(table) => table,
        Err(error) => return is_link(home, name).then(|| Err(error.into())),
    };
    let text = name.to_str()?;
    if table.owners(text).next().is_none() && !is_link(home, name) {
        return None;
    }
    Some(answer(home, &table, text, args))
}

/// True if the shim directory has an entry of this name, for any tool.
fn is_link(home: &Home, name: &OsStr) -> bool {
    home.bin().join(name).symlink_metadata().is_ok()
}

fn answer(home: &Home, table: &table::Table, name: &str, args: &[OsString]) -> Result<ExitCode, Failure> {
    let mut project = None;
    let claims = || -> Result<_, Failure> {
        let from = env::cwd()?;
        let files = ProjectFiles::read(&discover::project(&from).root)?;
        let claims = claims::of(home, &files)?;
        project = Some((from, files));
        Ok(claims)
    };
    let choice = fall_through::choose(table, name, claims)?;
    if let (Choice::Next(_), Some((from, files))) = (&choice, &project) {
        // A sandbox must not get a program run outside of sandboxes by changing silo.toml.
        trust::unchanged(home, from, files).map_err(|failure| failure.or_code(SILO_FAILED))?;
    }
    match choice {
        Choice::Tool(entry, why) => run::shim(&Globals::default(), (&entry.tool, why), name, args.iter().skip(1).cloned().collect()),
        Choice::Next(owners) => match run_next_on_path(home, name, args, &owners)? {},
        // The tool of this shim is gone: act as if the shim were gone too.
        Choice::Nobody => match run_next_on_path(home, name, args, &[])? {},
        Choice::Several(owners) => Err(several(name, &owners)),
    }
}

/// The error for a name that several tools have as a command.
pub fn several(name: &str, owners: &[&Entry]) -> Failure {
    let names: Vec<&str> = owners.iter().map(|entry| entry.tool.as_str()).collect();
    Failure::usage(
        format!("{name} is a command of several tools: {}", names.join(", ")),
        format!("`silo run --shim {name} {} …` says which, `silo shim remove {} {name}` settles it", names[0], names[names.len() - 1]),
    )
}

/// Replaces this process by the next program of this name on PATH: same arguments, without Silo's variables and shim directory.
fn run_next_on_path(home: &Home, name: &str, args: &[OsString], owners: &[&Entry]) -> Result<Infallible, Failure> {
    let count = env::var(HANDED_ON).and_then(|count| count.to_str()?.parse::<u32>().ok()).unwrap_or(0);
    if count >= MOST_HANDED_ON {
        let hint = format!("`silo which -a {name}` lists the programs on PATH; one of them calls back into {}", home.bin().display());
        return Err(Failure::found(format!("{name} called itself through PATH {count} times"), hint).with_code(NOT_EXECUTABLE));
    }
    let path = search::without(&env::path(), &home.bin());
    let this = search::identity(&env::program()?);
    let is_own = |file: &Path| launchers::starts_silo(file, this);
    let Some(program) = search::next(OsStr::new(name), &path, is_own) else { return Err(not_found(name, owners)) };
    let called = args.first().cloned().unwrap_or_default();
    // With the shim's path as argv[0], a program would look for its own files beside the shim.
    let as_path = called.as_encoded_bytes().contains(&b'/');
    let mut command = Command::new(&program);
    command.arg0(if as_path { program.as_os_str() } else { &called }).args(args.iter().skip(1));
    command.env_clear().envs(env::handed_on()).env(HANDED_ON, (count + 1).to_string());
    match path.is_empty() {
        true => command.env_remove("PATH"),
        false => command.env("PATH", &path),
    };
    let error = command.exec();
    Err(Failure::found(
        format!("{} cannot be executed: {error}", program.display()),
        format!("`silo which -a {name}` lists other programs of that name"),
    )
    .with_code(NOT_EXECUTABLE))
}

fn not_found(name: &str, owners: &[&Entry]) -> Failure {
    let Some(owner) = owners.first() else {
        let hint = "`silo doctor --fix` removes the leftover shim";
        return Failure::found(format!("{name} is the shim of a tool that is gone, and nothing else on PATH"), hint).with_code(NOT_FOUND);
    };
    let tool = &owner.tool;
    if !owner.answers_everywhere(name) {
        let addon = catalog::addon_with(name).unwrap_or("ADD-ON");
        let hint = format!("`silo add {addon} --for {tool}` adds it to this project");
        return Failure::found(format!("{name}: {tool} has it only with an add-on, and nothing else on PATH is called so"), hint)
            .with_code(NOT_FOUND);
    }
    Failure::found(
        format!("{name}: this project does not use {tool}, {tool} is not pinned, and nothing else on PATH is called so"),
        format!("`silo use {tool} && silo sync` for this project; `silo install {tool}` for everywhere"),
    )
    .with_code(NOT_FOUND)
}
