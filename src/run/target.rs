//! Finds the tool and the program of a command line.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use silo_store::resolve_in_root;

use silo_build::image;
use silo_model::recipe::Recipe;
use silo_model::recipe::catalog::{self, RecipeSources};
use silo_model::recipe::check::check_name;
use silo_tool::View;
use silo_tool::definition::{self, Scope};
use silo_tool::record::{self, Installed};
use silo_tool::shim::table::{self, Table};

use super::error::Error;
use super::grammar::{self, Commands, Known, ParseError, ParsedCommand, TypedWords};

/// The program to run.
pub struct Target {
    /// Installed tool.
    pub tool: Installed,
    /// Recipe of the tool; without one, the tool still runs with its image's configuration.
    pub recipe: Option<Recipe>,
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Typed arguments.
    pub args: Vec<OsString>,
    /// Variables that override all others.
    pub env: Vec<(String, String)>,
    /// Minimum memory in MiB, applied to a memory limit.
    pub least_memory_mb: u64,
}

impl Target {
    /// A target without extra variables or memory needs.
    pub(super) fn plain(tool: Installed, recipe: Option<Recipe>, argv: Vec<OsString>, args: Vec<OsString>) -> Target {
        Target { tool, recipe, argv, args, env: Vec::new(), least_memory_mb: 0 }
    }
}

/// The parsed command line.
pub struct ParsedWords<'a> {
    /// A tool, or a command of one.
    pub word: &'a OsStr,
    /// Value of `--shim`.
    pub program: Option<OsString>,
    /// Everything after the first word.
    pub rest: Vec<OsString>,
    /// Definitions that count: with `Scope::Global`, the project is ignored.
    pub scope: Scope,
    /// Prints a hint for the user.
    pub hint: &'a dyn Fn(&str),
}

/// Finds the installed tool, its program and the arguments.
pub fn find(view: View<'_>, wanted: ParsedWords<'_>) -> Result<Target, Error> {
    let places;
    let view = if wanted.scope == Scope::Global {
        places = RecipeSources { project: None, ..view.places.clone() };
        View { places: &places, ..view }
    } else {
        view
    };
    let name = plain(wanted.word)?.to_owned();
    let table = table::read(&view.home.shims())?;
    let mut known = Known::new();
    let mut usable = Vec::new();
    for tool in candidates(view, &table, &name, wanted.scope)? {
        let (recipe, mut commands) = commands(view, &table, &tool.name, wanted.scope);
        if tool.name == name {
            know_programs(view, &tool, wanted.rest.first(), &mut commands);
        }
        known.insert(tool.name.clone(), commands);
        usable.push((tool, recipe));
    }
    if usable.iter().any(|(tool, _)| tool.name == name) {
        know_others(&table, wanted.rest.first(), &mut known);
    }
    let typed = TypedWords { word: &name, program: wanted.program, rest: wanted.rest };
    let (first, args) = (typed.rest.first().cloned(), typed.rest.clone());
    let ParsedCommand { tool, argv, other } = grammar::meaning(typed, &known).map_err(|unclear| match unclear {
        ParseError::Unknown => missing(view, &table, &name),
        ParseError::Several(owners) => several(&name, &owners),
    })?;
    if let (Some(other), Some(first)) = (other, first) {
        hint(&first, &other, &tool, wanted.hint);
    }
    let (tool, recipe) = usable.into_iter().find(|(usable, _)| usable.name == tool).ok_or_else(|| missing(view, &table, &name))?;
    Ok(Target::plain(tool, recipe, argv, args))
}

/// Finds the command of the shim `name`; the arguments are not interpreted.
pub fn of_shim(view: View<'_>, tool: &str, name: &str, args: Vec<OsString>) -> Result<Target, Error> {
    let table = table::read(&view.home.shims())?;
    let installed = usable(view, tool, Scope::Project)?.ok_or_else(|| missing(view, &table, tool))?;
    let (recipe, commands) = commands(view, &table, tool, Scope::Project);
    let argv = grammar::named(tool, &commands, OsStr::new(name), &args);
    Ok(Target::plain(installed, recipe, argv.into_iter().chain(args.iter().cloned()).collect(), args))
}

/// Returns the command line of a tool that is not installed, such as a one-off tool; `word` is the tool or one of its commands.
pub fn of_recipe(tool: Installed, recipe: Recipe, word: &str, rest: Vec<OsString>) -> Result<Target, Error> {
    let known = Known::from([(tool.name.clone(), commands_of(&recipe))]);
    let args = rest.clone();
    let unknown = |_| Error::missing(format!("{} has no command \"{word}\"", tool.name), format!("silo show {}", tool.name));
    let meant = grammar::meaning(TypedWords { word, program: None, rest }, &known).map_err(unknown)?;
    Ok(Target::plain(tool, Some(recipe), meant.argv, args))
}

/// Returns the command line of a program of an image, by its name.
pub fn of_program(tool: Installed, recipe: Recipe, program: OsString, rest: Vec<OsString>) -> Target {
    let argv = std::iter::once(program).chain(rest.iter().cloned()).collect();
    Target::plain(tool, Some(recipe), argv, rest)
}

/// Fails if the first word of a command looks like an option: the parser leaves unknown options to the tool.
pub fn check_first_word(word: &OsStr, command: &str) -> Result<(), Error> {
    let shown = word.to_string_lossy();
    if shown.starts_with('-') {
        let hint = format!("put options of silo before the tool; `silo {command} --help` lists them");
        return Err(Error::usage(format!("unknown option {shown}"), hint));
    }
    Ok(())
}

fn plain(word: &OsStr) -> Result<&str, Error> {
    let shown = word.to_string_lossy();
    check_first_word(word, "run")?;
    let name = word.to_str().filter(|name| !name.is_empty() && !name.contains(['/', '\0']));
    let name = name.ok_or_else(|| Error::usage(format!("\"{shown}\" is not a tool"), "`silo list` shows the installed tools"))?;
    if let Some((tool, version)) = name.split_once('@') {
        let hint = format!("silo install {tool}@{version}, then silo run {tool}");
        return Err(Error::usage("the version is set when a tool is installed, not when it runs", hint));
    }
    Ok(name)
}

/// Returns the tools that `name` can mean: the tool of this name, else the tools with such a command, those of the project first.
fn candidates(view: View<'_>, table: &Table, name: &str, scope: Scope) -> Result<Vec<Installed>, Error> {
    if check_name(name).is_ok()
        && let Some(tool) = usable(view, name, scope)?
    {
        return Ok(vec![tool]);
    }
    let mut owners = catalog::shim_owners(view.places, name)?.into_keys().collect::<std::collections::BTreeSet<_>>();
    owners.extend(table.owners(name).map(|entry| entry.tool.clone()));
    let mut tools = Vec::new();
    for owner in owners {
        tools.extend(usable(view, &owner, scope)?);
    }
    if tools.len() > 1 && scope == Scope::Project {
        let claimed = definition::claimed(view)?;
        if tools.iter().any(|tool| claimed.contains(&tool.name)) {
            tools.retain(|tool| claimed.contains(&tool.name));
        }
    }
    Ok(tools)
}

/// Finds the image of a tool: the project's if the project uses the tool, else the installed one.
pub(super) fn usable(view: View<'_>, tool: &str, scope: Scope) -> Result<Option<Installed>, Error> {
    match scope {
        Scope::Global => Ok(record::get(view.home, tool)?),
        Scope::Project => Ok(definition::current(view, tool)?),
    }
}

/// Returns the commands of a tool: those of its recipe, its add-ons, and the user's aliases.
pub(super) fn commands(view: View<'_>, table: &Table, tool: &str, scope: Scope) -> (Option<Recipe>, Commands) {
    let recipe = definition::of(view, tool, scope).ok().map(|definition| definition.found.recipe);
    let mut commands =
        recipe.as_ref().map_or_else(Commands::default, |recipe| Commands { inherited: inherited(view, recipe), ..commands_of(recipe) });
    if let Some(entry) = table.get(tool) {
        let aliases = entry.shims.keys().filter_map(|name| Some((name.clone(), entry.alias(name)?.to_vec())));
        commands.shims.extend(aliases);
    }
    (recipe, commands)
}

/// Returns the commands that a recipe itself defines.
fn commands_of(recipe: &Recipe) -> Commands {
    Commands {
        command: recipe.run.command.clone(),
        arguments: recipe.run.arguments.clone().unwrap_or_default(),
        is_default: recipe.image.is_some() && recipe.run.arguments.is_none(),
        shims: recipe.run.shims.clone(),
        inherited: BTreeMap::new(),
    }
}

/// Returns the commands of the tools that a recipe requires, directly or not.
fn inherited(view: View<'_>, recipe: &Recipe) -> BTreeMap<String, Vec<String>> {
    let mut commands = BTreeMap::new();
    let (mut queue, mut seen) = (recipe.requires.clone(), BTreeSet::new());
    while let Some(required) = queue.pop() {
        if !seen.insert(required.clone()) {
            continue;
        }
        // A required recipe that cannot be read is an error when the tool is built.
        let Ok(below) = catalog::find(view.places, &required) else { continue };
        queue.extend(below.recipe.requires);
        for (name, words) in below.recipe.run.shims {
            commands.entry(name).or_insert(words);
        }
    }
    commands
}

/// Adds the program that the first argument names, if the image's own command is only a default.
fn know_programs(view: View<'_>, tool: &Installed, first: Option<&OsString>, commands: &mut Commands) {
    let Some(first) = first.and_then(|first| first.to_str()).filter(|first| commands.is_default && !first.is_empty()) else { return };
    let (root, path) = (image::root(view.home, tool.image), Path::new(first));
    // A relative path with directories is a path in the project.
    let dirs: Vec<PathBuf> = match (path.is_absolute(), path.components().count()) {
        (true, _) => path.parent().map(Path::to_owned).into_iter().collect(),
        (false, 1) => {
            let env = image::get(view.home, tool.image).ok().flatten().map(|image| image.env).unwrap_or_default();
            let search = env.get("PATH").map(String::as_str).unwrap_or_default();
            search.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from).collect()
        }
        _ => Vec::new(),
    };
    let Some(name) = path.file_name() else { return };
    let has = |dir: &PathBuf| resolve_in_root::list(&root, dir).is_ok_and(|names| names.iter().any(|other| other == name));
    if dirs.iter().any(has) {
        commands.shims.entry(first.to_owned()).or_insert_with(|| vec![first.to_owned()]);
    }
}

/// Adds other tools that have the first argument as a command, for a hint.
fn know_others(table: &Table, first: Option<&OsString>, known: &mut Known) {
    let Some(first) = first.and_then(|first| first.to_str()) else { return };
    for entry in table.owners(first) {
        let shims = [(first.to_owned(), vec![first.to_owned()])].into();
        known.entry(entry.tool.clone()).or_insert_with(|| Commands { shims, ..Commands::default() });
    }
}

fn hint(first: &OsStr, other: &str, tool: &str, say: &dyn Fn(&str)) {
    let first = first.to_string_lossy();
    if !Path::new(first.as_ref()).exists() {
        say(&format!("hint: \"{first}\" is a command of {other}, not of {tool}; did you mean `silo {first} …`?"));
    }
}

fn several(name: &str, owners: &[String]) -> Error {
    Error::usage(
        format!("{name} is a command of several tools: {}", owners.join(", ")),
        format!("`silo run --shim {name} {} …` says which", owners[0]),
    )
}

fn missing(view: View<'_>, table: &Table, name: &str) -> Error {
    let owners = catalog::shim_owners(view.places, name).unwrap_or_default();
    if owners.is_empty()
        && let Some(entry) = table.owners(name).next().filter(|entry| !entry.answers_everywhere(name))
    {
        let tool = &entry.tool;
        let addon = catalog::addon_with(name).unwrap_or("ADD-ON");
        return Error::missing(format!("{name} is a command of {tool} only with an add-on"), format!("silo add {addon} --for {tool}"));
    }
    let owner = owners.keys().next().cloned().or_else(|| table.owners(name).next().map(|entry| entry.tool.clone()));
    let tool = owner.as_deref().unwrap_or(name);
    match catalog::find(view.places, tool) {
        Ok(_) => Error::missing(record::not_installed(view.home, tool), record::install_command(view.home, tool)),
        Err(error) => Error::Recipe(error),
    }
}
