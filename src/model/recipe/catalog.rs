//! The available recipes: built in, the user's, the project's, each merged over the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::document;

use super::Recipe;
use super::debian::{self, DebianTable};
use super::file::{self, RecipeFile};
use super::requires;
use super::texts::ProjectRecipes;

/// A built-in recipe and its lock.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Name of the tool.
    pub name: &'static str,
    /// Text of the recipe.
    pub recipe: &'static str,
    /// Text of the lock.
    pub lock: &'static str,
}

/// Every built-in recipe, by name. `tests/recipes.rs` checks that none in `recipes/` is missing.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn { name: "aws-cli", recipe: include_str!("../../../recipes/aws-cli.toml"), lock: include_str!("../../../recipes/aws-cli.lock") },
    BuiltIn {
        name: "claude-code",
        recipe: include_str!("../../../recipes/claude-code.toml"),
        lock: include_str!("../../../recipes/claude-code.lock"),
    },
    BuiltIn { name: "cypress", recipe: include_str!("../../../recipes/cypress.toml"), lock: include_str!("../../../recipes/cypress.lock") },
    BuiltIn { name: "deno", recipe: include_str!("../../../recipes/deno.toml"), lock: include_str!("../../../recipes/deno.lock") },
    BuiltIn {
        name: "emulator",
        recipe: include_str!("../../../recipes/emulator.toml"),
        lock: include_str!("../../../recipes/emulator.lock"),
    },
    BuiltIn { name: "go", recipe: include_str!("../../../recipes/go.toml"), lock: include_str!("../../../recipes/go.lock") },
    BuiltIn { name: "java", recipe: include_str!("../../../recipes/java.toml"), lock: include_str!("../../../recipes/java.lock") },
    BuiltIn { name: "jupyter", recipe: include_str!("../../../recipes/jupyter.toml"), lock: include_str!("../../../recipes/jupyter.lock") },
    BuiltIn { name: "kernel", recipe: include_str!("../../../recipes/kernel.toml"), lock: include_str!("../../../recipes/kernel.lock") },
    BuiltIn { name: "node", recipe: include_str!("../../../recipes/node.toml"), lock: include_str!("../../../recipes/node.lock") },
    BuiltIn {
        name: "playwright",
        recipe: include_str!("../../../recipes/playwright.toml"),
        lock: include_str!("../../../recipes/playwright.lock"),
    },
    BuiltIn { name: "psql", recipe: include_str!("../../../recipes/psql.toml"), lock: include_str!("../../../recipes/psql.lock") },
    BuiltIn { name: "python", recipe: include_str!("../../../recipes/python.toml"), lock: include_str!("../../../recipes/python.lock") },
    BuiltIn { name: "rust", recipe: include_str!("../../../recipes/rust.toml"), lock: include_str!("../../../recipes/rust.lock") },
    BuiltIn { name: "sh", recipe: include_str!("../../../recipes/sh.toml"), lock: include_str!("../../../recipes/sh.lock") },
    BuiltIn { name: "vm", recipe: include_str!("../../../recipes/vm.toml"), lock: include_str!("../../../recipes/vm.lock") },
];

/// Built-in add-ons: name and text. `tests/recipes.rs` checks that none is missing.
pub const ADDONS: &[(&str, &str)] = &[
    ("corepack", include_str!("../../../recipes/addons/corepack.toml")),
    ("java", include_str!("../../../recipes/addons/java.toml")),
    ("kotlin", include_str!("../../../recipes/addons/kotlin.toml")),
    ("pipx", include_str!("../../../recipes/addons/pipx.toml")),
    ("pnpm", include_str!("../../../recipes/addons/pnpm.toml")),
    ("poetry", include_str!("../../../recipes/addons/poetry.toml")),
    ("ruby", include_str!("../../../recipes/addons/ruby.toml")),
    ("uv", include_str!("../../../recipes/addons/uv.toml")),
    ("yarn", include_str!("../../../recipes/addons/yarn.toml")),
];

/// Source of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Built in.
    BuiltIn,
    /// Defined or changed in the user's recipes.
    User,
    /// Defined or changed in the project's recipes.
    Project,
}

/// A recipe and the source of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogRecipe {
    /// Merged recipe.
    pub recipe: Recipe,
    /// Source of the last merged file.
    pub origin: Origin,
}

/// Reason why a recipe is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No recipe of that name.
    #[error("there is no recipe for \"{name}\"{near}")]
    Unknown {
        /// Requested name.
        name: String,
        /// Suggestion, as the end of the sentence, or empty.
        near: String,
    },
    /// A recipe file cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// An invalid recipe.
    #[error("{path}: {source}", path = .path.display())]
    Recipe {
        /// File.
        path: PathBuf,
        /// Fault in it.
        source: super::error::Error,
    },
    /// A recipe requires an unknown tool.
    #[error("{tool} requires \"{required}\", but there is no recipe for it")]
    Requires {
        /// Requiring tool.
        tool: String,
        /// Required tool.
        required: String,
    },
    /// Recipes that require each other.
    #[error("these recipes require each other: {}", .0.join(" -> "))]
    Circle(Vec<String>),
    /// A recipe requires one of another Debian release.
    #[error("{tool} has packages of {suite}, but requires {required}, which has packages of {other}")]
    Suites {
        /// Requiring tool.
        tool: String,
        /// Its suite.
        suite: String,
        /// Required tool.
        required: String,
        /// Suite of the required tool.
        other: String,
    },
    /// A directory of recipes cannot be listed.
    #[error("cannot list {path}", path = .path.display())]
    List {
        /// Directory.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
}

/// Sources of recipes in addition to the built-in ones.
#[derive(Clone, Debug, Default)]
pub struct RecipeSources {
    /// Directory of the user's recipes.
    pub user: Option<PathBuf>,
    /// The project's recipes.
    pub project: Option<ProjectRecipes>,
    /// A recipe of the user that is not written yet.
    pub draft: Option<Draft>,
}

impl RecipeSources {
    /// Returns the same sources without those of the project.
    pub fn without_project(&self) -> RecipeSources {
        RecipeSources { project: None, ..self.clone() }
    }

    /// True if a project has recipes or add-ons.
    pub fn has_project(&self) -> bool {
        self.project.as_ref().is_some_and(|recipes| !recipes.is_empty())
    }
}

/// A recipe that is tried before it is written.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Name of the recipe.
    pub name: String,
    /// Text of the recipe.
    pub text: String,
}

/// Finds the recipe of `name`, in its default version.
pub fn find(places: &RecipeSources, name: &str) -> Result<CatalogRecipe, Error> {
    find_version(places, name, None)
}

/// Finds the recipe of `name` in a requested version, if it has that, and merges it over the recipes that it requires.
pub fn find_version(places: &RecipeSources, name: &str, wanted: Option<&str>) -> Result<CatalogRecipe, Error> {
    within(places, name, wanted, &mut Vec::new())
}

/// Finds the recipe of a tool that the tools in `chain` require.
fn within(places: &RecipeSources, name: &str, wanted: Option<&str>, chain: &mut Vec<String>) -> Result<CatalogRecipe, Error> {
    chain.push(name.to_owned());
    if chain.iter().filter(|tool| *tool == name).count() > 1 {
        return Err(Error::Circle(chain.clone()));
    }
    let Some((file, origin, path)) = merged(places, name)? else {
        return Err(match chain.len().checked_sub(2) {
            Some(at) => Error::Requires { tool: chain[at].clone(), required: name.to_owned() },
            None => unknown(places, name),
        });
    };
    let file = match wanted {
        Some(wanted) => file::choose(name, file, wanted),
        None => file,
    };
    let mut recipe = file::check(name, file).map_err(|source| Error::Recipe { path, source })?;
    for required in recipe.requires.clone().into_iter().rev() {
        let base = within(places, &required, None, chain)?.recipe;
        recipe = requires::merge_base(recipe, base).map_err(|(suite, other)| Error::Suites {
            tool: name.to_owned(),
            suite,
            required: required.clone(),
            other,
        })?;
    }
    chain.pop();
    Ok(CatalogRecipe { recipe, origin })
}

/// Merges the recipes of a tool from all sources.
fn merged(places: &RecipeSources, name: &str) -> Result<Option<(RecipeFile, Origin, PathBuf)>, Error> {
    let builtin_path = PathBuf::from(format!("recipes/{name}.toml"));
    let mut merged: Option<(RecipeFile, Origin, PathBuf)> = None;
    if let Some(builtin) = built_in(name) {
        merged = Some((document::parse(builtin.recipe, &builtin_path)?, Origin::BuiltIn, builtin_path));
    }
    if super::check::check_name(name).is_err() {
        return Ok(merged);
    }
    for (origin, path, text) in documents(places, &format!("{name}.toml"))? {
        let mut over = document::parse::<RecipeFile>(&text, &path)?;
        for debian in over.debian.iter_mut().chain(over.versions.values_mut().filter_map(|version| version.debian.as_mut())) {
            locate(places, origin, &path, debian)?;
        }
        let under = merged.take().map(|(under, ..)| under).unwrap_or_default();
        merged = Some((file::merge(under, over), origin, path));
    }
    Ok(merged)
}

/// Reads the key files that a recipe names from the recipe's directory.
fn locate(places: &RecipeSources, origin: Origin, path: &Path, debian: &mut DebianTable) -> Result<(), Error> {
    let dir = path.parent().unwrap_or(path);
    let read = |name: &str| match places.project.as_ref().filter(|_| origin == Origin::Project) {
        Some(recipes) => Ok::<_, Unlocated>(recipes.text(name)?.map(str::to_owned)),
        None => Ok(document::text_of(&dir.join(name))?),
    };
    debian::locate(debian, dir, read).map_err(|error| match error {
        Unlocated::Document(error) => Error::Document(error),
        Unlocated::Recipe(source) => Error::Recipe { path: path.to_owned(), source },
    })
}

/// Error while reading a file that a recipe names.
enum Unlocated {
    Document(document::Error),
    Recipe(super::error::Error),
}

impl From<document::Error> for Unlocated {
    fn from(error: document::Error) -> Unlocated {
        Unlocated::Document(error)
    }
}

impl From<super::error::Error> for Unlocated {
    fn from(error: super::error::Error) -> Unlocated {
        Unlocated::Recipe(error)
    }
}

/// Reads a document of this name from the user's and the project's recipes, in this order.
pub fn documents(places: &RecipeSources, name: &str) -> Result<Vec<(Origin, PathBuf, String)>, document::Error> {
    let mut found = Vec::new();
    if let Some(dir) = &places.user {
        let path = dir.join(name);
        let text = match places.draft.as_ref().filter(|draft| name.strip_suffix(".toml") == Some(&draft.name)) {
            Some(draft) => Some(draft.text.clone()),
            None => document::text_of(&path)?,
        };
        found.extend(text.map(|text| (Origin::User, path, text)));
    }
    if let Some(recipes) = &places.project {
        found.extend(recipes.text(name)?.map(|text| (Origin::Project, recipes.dir().join(name), text.to_owned())));
    }
    Ok(found)
}

/// Returns the built-in recipe of `name`.
pub fn built_in(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|builtin| builtin.name == name)
}

/// Returns the names of all recipes.
pub fn names(places: &RecipeSources) -> Result<BTreeSet<String>, Error> {
    let mut names: BTreeSet<String> = BUILT_IN.iter().map(|builtin| builtin.name.to_owned()).collect();
    names.extend(names_below(places, "")?);
    Ok(names)
}

/// Lists the user's and the project's documents in a subdirectory of their recipes.
pub(super) fn names_below(places: &RecipeSources, dir: &str) -> Result<BTreeSet<String>, Error> {
    let mut names = BTreeSet::new();
    if let Some(user) = &places.user {
        names.extend(names_in(&user.join(dir))?);
    }
    if let Some(recipes) = &places.project {
        names.extend(recipes.names(dir).into_iter().filter(|name| super::check::check_name(name).is_ok()).map(str::to_owned));
    }
    Ok(names)
}

/// Finds the tools that have a shim of this name, with its command.
pub fn shim_owners(places: &RecipeSources, shim: &str) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut owners = BTreeMap::new();
    for name in names(places)? {
        let recipe = find(places, &name)?.recipe;
        if let Some(command) = recipe.run.shims.get(shim) {
            owners.insert(name, command.clone());
        }
    }
    Ok(owners)
}

/// Lists the documents in a directory; a missing directory is empty.
fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::List { path: dir.to_owned(), source };
    let listing = match std::fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in listing {
        let name = entry.map_err(failed)?.file_name();
        if let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".toml"))
            && super::check::check_name(stem).is_ok()
        {
            names.push(stem.to_owned());
        }
    }
    Ok(names)
}

fn unknown(places: &RecipeSources, name: &str) -> Error {
    Error::Unknown { name: name.to_owned(), near: instead(places, name) }
}

/// Returns the end of an error about an unknown recipe: an add-on or command of this name, or a similar name.
fn instead(places: &RecipeSources, name: &str) -> String {
    let addons = ADDONS;
    let own = names_below(places, "addons/").unwrap_or_default();
    if own.contains(name) || addons.iter().any(|(addon, _)| *addon == name) {
        return format!("; it is an add-on, which needs a tool: silo add {name} --for TOOL");
    }
    if let Some(tool) = shim_owners(places, name).ok().and_then(|owners| owners.into_keys().next()) {
        return format!("; it is a command of {tool}: silo install {tool}");
    }
    if let Some(addon) = addon_with(name) {
        return format!("; it is a command of the add-on {addon}, which needs a tool: silo add {addon} --for TOOL");
    }
    let known = names(places).unwrap_or_default();
    let known: Vec<&str> = known.iter().map(String::as_str).chain(addons.iter().map(|(addon, _)| *addon)).collect();
    match document::nearest(name, &known) {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None => "; `silo list --available` shows them all".to_owned(),
    }
}

/// Returns the commands that an add-on adds.
pub fn addon_with(command: &str) -> Option<&'static str> {
    let mut with = ADDONS.iter().filter(|(_, text)| commands_of(text).any(|other| other == command)).map(|(addon, _)| *addon);
    let first = with.next()?;
    Some(with.find(|addon| *addon == command).unwrap_or(first))
}

/// Returns the commands that an add-on brings.
fn commands_of(addon: &str) -> impl Iterator<Item = String> {
    let table: toml::Table = toml::from_str(addon).unwrap_or_default();
    let shims = table.get("shims").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    shims.into_iter().filter_map(|shim| Some(shim.as_str()?.split(':').next()?.to_owned()))
}
