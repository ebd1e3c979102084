//! Which recipes there are: built in, the user's, the project's, each laid over the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::document;

use super::Recipe;
use super::file::{self, RecipeFile};

/// A recipe that comes with the program, and its lock.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// The tool's name.
    pub name: &'static str,
    /// The recipe's text.
    pub recipe: &'static str,
    /// The lock's text.
    pub lock: &'static str,
}

/// Every built-in recipe, by name. `tests/recipes.rs` holds that none in `recipes/` is forgotten.
pub const BUILT_IN: &[BuiltIn] = &[
    BuiltIn { name: "python", recipe: include_str!("../../recipes/python.toml"), lock: include_str!("../../recipes/python.lock") },
    BuiltIn { name: "sh", recipe: include_str!("../../recipes/sh.toml"), lock: include_str!("../../recipes/sh.lock") },
];

/// Where a recipe comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It came with the program.
    BuiltIn,
    /// It stands, or is changed, in the user's recipes.
    User,
    /// It stands, or is changed, in the project's recipes.
    Project,
}

/// A recipe and where its last word was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The recipe.
    pub recipe: Recipe,
    /// Where its last layer comes from.
    pub origin: Origin,
}

/// Why a recipe could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No recipe of that name.
    #[error("there is no recipe for \"{name}\"{near}")]
    Unknown {
        /// The name.
        name: String,
        /// A name near it, as the end of the sentence, or nothing.
        near: String,
    },
    /// A recipe that cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A recipe that says something impossible.
    #[error("{path}: {source}", path = .path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: file::Error,
    },
    /// A directory of recipes that cannot be listed.
    #[error("cannot list {path}", path = .path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The directories looked through besides the built-in recipes, each where there is one.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The user's recipes.
    pub user: Option<PathBuf>,
    /// The project's recipes.
    pub project: Option<PathBuf>,
}

/// Finds the recipe of `name`.
pub fn find(places: &Places, name: &str) -> Result<Found, Error> {
    let builtin_path = PathBuf::from(format!("recipes/{name}.toml"));
    let mut merged: Option<(RecipeFile, Origin, PathBuf)> = None;
    if let Some(builtin) = built_in(name) {
        merged = Some((document::parse(builtin.recipe, &builtin_path)?, Origin::BuiltIn, builtin_path));
    }
    for (dir, origin) in [(&places.user, Origin::User), (&places.project, Origin::Project)] {
        let Some(dir) = dir.as_ref().filter(|_| file::check_name(name).is_ok()) else { continue };
        let path = dir.join(format!("{name}.toml"));
        if let Some(over) = document::read::<RecipeFile>(&path)? {
            let under = merged.take().map(|(under, ..)| under).unwrap_or_default();
            merged = Some((file::merge(under, over), origin, path));
        }
    }
    let Some((file, origin, path)) = merged else { return Err(unknown(places, name)) };
    let recipe = file::check(name, file).map_err(|source| Error::Recipe { path, source })?;
    Ok(Found { recipe, origin })
}

/// Returns the built-in recipe of `name`.
pub fn built_in(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|builtin| builtin.name == name)
}

/// Returns the names of all recipes.
pub fn names(places: &Places) -> Result<BTreeSet<String>, Error> {
    let mut names: BTreeSet<String> = BUILT_IN.iter().map(|builtin| builtin.name.to_owned()).collect();
    for dir in [&places.user, &places.project].into_iter().flatten() {
        names.extend(names_in(dir)?);
    }
    Ok(names)
}

/// Finds the tools that have a shim of this name, with the shim's command.
pub fn shim_owners(places: &Places, shim: &str) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut owners = BTreeMap::new();
    for name in names(places)? {
        let recipe = find(places, &name)?.recipe;
        if let Some(command) = recipe.run.shims.get(shim) {
            owners.insert(name, command.clone());
        }
    }
    Ok(owners)
}

/// Lists the names of the documents in a directory; one that is not there has none.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
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
            && file::check_name(stem).is_ok()
        {
            names.push(stem.to_owned());
        }
    }
    Ok(names)
}

fn unknown(places: &Places, name: &str) -> Error {
    let known = names(places).unwrap_or_default();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let near = document::nearest(name, &known)
        .map_or_else(|| "; `silo list --available` shows them all".to_owned(), |near| format!("; did you mean \"{near}\"?"));
    Error::Unknown { name: name.to_owned(), near }
}
