//! `silo shim`, `silo pin` and `silo unpin`, and the notes about shims after an install.

use std::process::ExitCode;

use clap::Subcommand;

use crate::run::find_program;
use silo_base::sanitize;
use silo_model::recipe::check::check_name;
use silo_tool::definition::{self, Scope};
use silo_tool::record;
use silo_tool::shim::table::{self, Entry, Shim};
use silo_tool::shim::{launchers, search};
use silo_tool::shims::{self, Pin};

use super::context::{Globals, Setting, setting};
use super::error::Failure;
use super::flags::Format;
use super::{env, ui};

/// Change the commands of a tool on PATH
///
/// `silo shim python add …` means the same as `silo shim add python …`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Add a command to a tool, such as npm, or "ipython:python -m IPython"
    Add {
        /// The tool
        tool: String,
        /// NAME, or NAME:PROGRAM with arguments
        #[arg(required = true, value_name = "NAME[:PROGRAM...]")]
        shims: Vec<String>,
    },
    /// Remove commands of a tool from PATH
    Remove {
        /// The tool
        tool: String,
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// List the commands of tools and the programs they run
    List {
        /// The tool; by default all
        tool: Option<String>,
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Let a tool's commands start it everywhere, not only in projects that use it
#[derive(clap::Args)]
pub struct PinArgs {
    /// The tool
    tool: String,
}

/// Let a tool's commands start it only in projects that use it; elsewhere they run the next program on PATH
#[derive(clap::Args)]
pub struct UnpinArgs {
    /// The tool
    tool: String,
}

pub fn run(globals: &Globals, args: &Args) -> Result<ExitCode, Failure> {
    let setting = setting(globals)?;
    let program = env::found_as(&setting.home)?;
    match &args.what {
        What::Add { tool, shims: specs } => {
            check(tool)?;
            let changed = shims::add(setting.view(), &program, tool, specs)?;
            for name in &changed.foreign {
                ui::note(&format!("{} is not a shim and was not changed, so {name} has no shim", sanitize::path(&setting.home.shim(name))));
            }
            let names: Vec<&str> = specs.iter().map(|spec| spec.split(':').next().unwrap_or_default()).collect();
            for name in &names {
                let state = if changed.done.iter().any(|new| new == name) { "is a command" } else { "is a command already" };
                ui::data(&format!("{name} {state} of {tool}\n"))?;
            }
            note_missing_programs(&setting, tool, specs)?;
            note_hidden_commands(&setting, tool)?;
        }
        What::Remove { tool, names } => {
            check(tool)?;
            shims::remove(&setting.home, &program, tool, names)?;
            ui::data(&format!("{} removed from {tool}\n", names.join(", ")))?;
        }
        What::List { tool, json } => list(&setting, tool.as_deref(), Format::of_flag(*json))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Notes the programs of new commands that the tool's image lacks. A project may have them, in `.venv/bin` or `node_modules/.bin`.
fn note_missing_programs(setting: &Setting, tool: &str, specs: &[String]) -> Result<(), Failure> {
    let Some(installed) = record::get(&setting.home, tool)? else { return Ok(()) };
    for spec in specs {
        let program = spec.split_once(':').map_or(spec.as_str(), |(_, words)| words).split_whitespace().next().unwrap_or_default();
        if !find_program::is_in_image(setting.view(), &installed, program) {
            let shown = sanitize::line(program);
            ui::note(&format!(
                "the image of {tool} has no program {shown}, so the command works only where the project has it\n  \
                 try: `silo build {tool} …` installs it into the image; `silo shim remove {tool} {}` removes the command",
                sanitize::line(spec.split(':').next().unwrap_or_default())
            ));
        }
    }
    Ok(())
}

fn check(tool: &str) -> Result<(), Failure> {
    check_name(tool).map_err(|error| Failure::usage(error.to_string(), "`silo list` shows the installed tools"))
}

fn list(setting: &Setting, tool: Option<&str>, format: Format) -> Result<(), Failure> {
    let table = table::read(&setting.home.shims())?;
    if let Some(tool) = tool.filter(|tool| table.get(tool).is_none()) {
        return Err(shims::Error::NotHere(tool.to_owned()).into());
    }
    let mut rows = Vec::new();
    for entry in table.tools.iter().filter(|entry| tool.is_none_or(|tool| tool == entry.tool)) {
        let words = words(setting, entry);
        rows.extend(words.into_iter().map(|(name, command)| (name, command, entry)));
    }
    rows.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    if format == Format::Json {
        let row = |(name, command, entry): &(String, Vec<String>, &Entry)| serde_json::json!({ "name": name, "tool": entry.tool, "command": command, "pinned": entry.pinned });
        return ui::json(&rows.iter().map(row).collect());
    }
    let width = rows.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    let line = |(name, command, entry): &(String, Vec<String>, &Entry)| {
        let pinned = if entry.pinned { "pinned" } else { "not pinned" };
        format!("{name:width$}  {} ({}, {pinned})\n", command.join(" "), entry.tool)
    };
    ui::data(&rows.iter().map(line).collect::<String>())
}

/// Returns the names of a tool's shims and their commands.
fn words(setting: &Setting, entry: &Entry) -> Vec<(String, Vec<String>)> {
    let recipe = definition::of(setting.view(), &entry.tool, Scope::Project).ok().map(|definition| definition.found.recipe.run);
    let of_recipe = |name: &str| {
        let run = recipe.as_ref()?;
        run.shims.get(name).cloned().or_else(|| (name == entry.tool).then(|| run.command.clone()))
    };
    let named = entry.shims.iter().filter(|(_, shim)| **shim != Shim::Hidden);
    named
        .map(|(name, _)| {
            let command = entry.alias(name).map(<[String]>::to_vec).or_else(|| of_recipe(name));
            (name.clone(), command.unwrap_or_else(|| vec![name.clone()]))
        })
        .collect()
}

pub fn pin(globals: &Globals, args: &PinArgs) -> Result<ExitCode, Failure> {
    change_pin(globals, &args.tool, Pin::Pinned)?;
    Ok(ExitCode::SUCCESS)
}

pub fn unpin(globals: &Globals, args: &UnpinArgs) -> Result<ExitCode, Failure> {
    change_pin(globals, &args.tool, Pin::Unpinned)?;
    Ok(ExitCode::SUCCESS)
}

fn change_pin(globals: &Globals, tool: &str, pin: Pin) -> Result<(), Failure> {
    check(tool)?;
    let setting = setting(globals)?;
    let changed = shims::pin(&setting.home, &env::found_as(&setting.home)?, tool, pin)?;
    let text = match (pin, changed) {
        (Pin::Pinned, true) => format!("{tool} is pinned: its commands start it everywhere\n"),
        (Pin::Pinned, false) => format!("{tool} is pinned already\n"),
        (Pin::Unpinned, true) => {
            format!("{tool} is no longer pinned: outside projects that use it, its commands run the next program on PATH\n")
        }
        (Pin::Unpinned, false) => format!("{tool} is not pinned\n"),
    };
    ui::data(&text)?;
    if pin == Pin::Pinned {
        note_hidden_commands(&setting, tool)?;
    }
    Ok(())
}

/// Notes the commands of a tool that PATH does not find, and why.
pub fn note_hidden_commands(setting: &Setting, tool: &str) -> Result<(), Failure> {
    let table = table::read(&setting.home.shims())?;
    let Some(entry) = table.get(tool) else { return Ok(()) };
    let names: Vec<&str> = entry.shims.keys().map(String::as_str).filter(|name| entry.answers(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    if !on_path(setting) {
        let verb = if names.len() == 1 { "is" } else { "are" };
        let names = names.join(", ");
        let bin = setting.home.bin();
        ui::note(&format!("{} is not on PATH, so {names} {verb} found elsewhere or not at all\n  try: {}", sanitize::path(&bin), advice()));
        return Ok(());
    }
    for (name, file) in shadowed(setting, &names) {
        let bin = setting.home.bin();
        ui::note(&format!("{name} is {} on PATH, before {}\n  try: {}", sanitize::path(&file), sanitize::path(&bin), advice()));
    }
    Ok(())
}

/// True if the shim directory is on PATH.
pub fn on_path(setting: &Setting) -> bool {
    search::contains(&env::path(), &setting.home.bin())
}

/// Returns the names for which another file comes first on PATH, and that file.
pub fn shadowed(setting: &Setting, names: &[&str]) -> Vec<(String, std::path::PathBuf)> {
    let path = env::path();
    let shims = search::identity(&setting.home.program());
    let first = |name: &&str| search::all(std::ffi::OsStr::new(name), &path).next();
    let named = names.iter().filter_map(|name| Some(((*name).to_owned(), first(name)?)));
    named.filter(|(_, file)| !launchers::starts_silo(file, shims)).collect()
}

/// Returns the line that puts the shim directory first on PATH, for the user's shell.
pub fn advice() -> &'static str {
    let shell = env::var("SHELL").and_then(|shell| std::path::Path::new(&shell).file_name()?.to_str().map(str::to_owned));
    super::shellenv::advice(shell.as_deref().unwrap_or_default())
}
