//! What a tool is where it is used: its recipe, with what the settings in force lay over it, and where its lock is kept.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::build::{self, Target};
use crate::config::{Settings, overlay};
use crate::document;
use crate::home::PROJECT_LOCK;
use crate::recipe::addon;
use crate::recipe::catalog::{self, Found};
use crate::recipe::file::{self, check_name};

use super::View;
use super::locking;
use super::record::{self, Installed};

/// Where a tool is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere that no project says otherwise.
    Global,
    /// In the project around the working directory.
    Project,
}

impl Scope {
    /// Reads the option `--global`.
    pub fn of(global: bool) -> Scope {
        if global { Scope::Global } else { Scope::Project }
    }
}

/// A tool as it is used somewhere.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The recipe with all that is laid over it, and where it comes from.
    pub found: Found,
    /// The version that is wanted, or its beginning.
    pub version: Option<String>,
    /// The lock file that must hold its lock; without one, the recipe's own lock counts.
    pub lock_file: Option<PathBuf>,
    /// The project whose files its steps may see.
    pub project: Option<PathBuf>,
}

/// Why a definition could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error(transparent)]
    Recipe(#[from] catalog::Error),
    /// The settings cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// Settings name an add-on that there is none of.
    #[error("overrides.{tool}.addons: there is no add-on \"{name}\"{near}")]
    Addon {
        /// The tool.
        tool: String,
        /// The add-on.
        name: String,
        /// A name near it, as the end of the sentence, or nothing.
        near: String,
    },
    /// Settings lay something impossible over a recipe.
    #[error("overrides.{tool}")]
    Overlay {
        /// The tool.
        tool: String,
        /// What.
        #[source]
        source: file::Error,
    },
    /// A lock cannot be read.
    #[error(transparent)]
    Lock(#[from] locking::Error),
    /// The record of an installed tool cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A project uses the tool, and its image is not there.
    #[error("this project's {tool} is not built: {why}")]
    NotBuilt {
        /// The tool.
        tool: String,
        /// What is missing.
        why: &'static str,
    },
}

/// Returns what a tool is in a scope.
pub fn of(view: View<'_>, tool: &str, scope: Scope) -> Result<Definition, Error> {
    of_version(view, tool, scope, None)
}

/// The same in the version that is wanted; else in that of the settings, else in the one that is installed.
pub fn of_version(view: View<'_>, tool: &str, scope: Scope, wanted: Option<&str>) -> Result<Definition, Error> {
    let settings = settings(view, scope);
    let over = settings.overrides.get(tool).cloned().unwrap_or_default();
    let wanted = wanted.map(str::to_owned).or_else(|| over.version.clone());
    let installed = || Some(record::get(view.home, tool).ok()??.version).filter(|_| scope == Scope::Global);
    let found = catalog::find_version(view.places, tool, wanted.clone().or_else(installed).as_deref())?;
    let mut addons = Vec::new();
    for name in &over.addons {
        let addon = addon::find(view.places, name)?;
        addons.push(addon.ok_or_else(|| unknown_addon(view, tool, name))?);
    }
    let recipe = overlay::over(found.recipe, &over, &addons, &settings.install_allow(tool))
        .map_err(|source| Error::Overlay { tool: tool.to_owned(), source })?;
    let project = (scope == Scope::Project).then(|| view.project.to_owned());
    let lock_file = match &project {
        Some(dir) => Some(dir.join(PROJECT_LOCK)),
        None => over.shapes_image().then(|| view.home.root().join(PROJECT_LOCK)),
    };
    Ok(Definition { found: Found { recipe, origin: found.origin }, version: wanted, lock_file, project })
}

fn settings(view: View<'_>, scope: Scope) -> &Settings {
    match scope {
        Scope::Global => view.user_settings,
        Scope::Project => view.settings,
    }
}

fn unknown_addon(view: View<'_>, tool: &str, name: &str) -> Error {
    let known = addon::names(view.places).unwrap_or_default();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let near = document::nearest(name, &known).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
    Error::Addon { tool: tool.to_owned(), name: name.to_owned(), near }
}

/// Returns the tools that the project claims: those of its settings, and those of its lock.
pub fn claimed(view: View<'_>) -> Result<BTreeSet<String>, Error> {
    let mut tools = view.project_settings.claims();
    // Language servers are locked there, too.
    tools.extend(locking::of_project(view)?.into_keys().filter(|name| check_name(name).is_ok()));
    Ok(tools)
}

/// Finds the image that the project's tool is now, or nothing where the project does not claim the tool.
///
/// The definition and the lock name the image together, so a wrong one cannot be found.
pub fn image(view: View<'_>, tool: &str) -> Result<Option<Installed>, Error> {
    if !is_claimed(view, tool)? {
        return Ok(None);
    }
    let definition = of(view, tool, Scope::Project)?;
    let not_built = |why| Error::NotBuilt { tool: tool.to_owned(), why };
    let lock = locking::existing(view, &definition)?.ok_or_else(|| not_built("silo.lock does not say what it is made of"))?;
    let found = build::known(view.home, &definition.target(&lock));
    let image = found.ok_or_else(|| not_built("what silo.toml and silo.lock say was never built on this machine"))?;
    Ok(Some(Installed { name: tool.to_owned(), version: locking::version(&definition.found, &lock), image }))
}

/// Finds the image that a tool is now: the project's where the project claims the tool, else the installed one.
pub fn current(view: View<'_>, tool: &str) -> Result<Option<Installed>, Error> {
    match image(view, tool)? {
        Some(own) => Ok(Some(own)),
        None => Ok(record::get(view.home, tool)?),
    }
}

/// Returns where a tool is defined: in the project that claims it, else for everywhere.
pub fn scope(view: View<'_>, tool: &str) -> Result<Scope, Error> {
    Ok(if is_claimed(view, tool)? { Scope::Project } else { Scope::Global })
}

fn is_claimed(view: View<'_>, tool: &str) -> Result<bool, Error> {
    let settings = view.project_settings;
    let listed = settings.tools.iter().any(|name| name == tool);
    let shaped = settings.overrides.get(tool).is_some_and(crate::config::Override::shapes_image);
    Ok(listed || shaped || locking::of_project(view)?.contains_key(tool))
}

impl Definition {
    /// The definition as what is to be built from a lock.
    pub fn target<'a>(&'a self, lock: &'a crate::lock::Lock) -> Target<'a> {
        Target { recipe: &self.found.recipe, lock, project: self.project.as_deref(), frozen: false, anew: false }
    }

    /// The tool's name.
    pub fn tool(&self) -> &str {
        &self.found.recipe.name
    }
}
