//! The definition of a tool in a scope: its recipe, overridden by the settings in force, and the path of its lock.

use std::collections::BTreeSet;

use silo_base::home::PROJECT_LOCK;
use silo_base::system::Arch;
use silo_model::config::{Override, Settings, overlay};
use silo_model::document;
use silo_model::recipe::addon;
use silo_model::recipe::catalog::{self, CatalogRecipe};
use silo_model::recipe::check::check_name;
use silo_model::recipe::versions::is_of;

use super::View;
pub use super::defined_tool::Definition;
use super::lock_files;
use super::record::{self, Installed};

/// Scope of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outside of projects that define the tool.
    Global,
    /// In the project around the working directory.
    Project,
}

impl Scope {
    /// Converts the flag `--global`.
    pub fn of_flag(global: bool) -> Scope {
        if global { Scope::Global } else { Scope::Project }
    }
}

/// Error of reading a definition.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error(transparent)]
    Recipe(#[from] catalog::Error),
    /// The settings cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The settings name an unknown add-on.
    #[error("overrides.{tool}.addons: there is no add-on \"{name}\"{near}")]
    Addon {
        /// The tool.
        tool: String,
        /// The add-on.
        name: String,
        /// A similar name, as the end of the sentence, or empty.
        near: String,
    },
    /// The settings override a recipe with something invalid.
    #[error("overrides.{tool}")]
    Overlay {
        /// The tool.
        tool: String,
        /// The fault.
        #[source]
        source: silo_model::recipe::error::Error,
    },
    /// A lock cannot be read.
    #[error(transparent)]
    Lock(#[from] lock_files::Error),
    /// The record of an installed tool cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A project uses the tool, and its image does not exist.
    #[error("this project's {tool} is not built{}: {why}", .platform.as_ref().map_or_else(String::new, |platform| format!(" for {platform}")))]
    NotBuilt {
        /// The tool.
        tool: String,
        /// The platform, if it is not this machine's.
        platform: Option<String>,
        /// The reason.
        why: &'static str,
    },
}

/// Returns the definition of a tool in a scope.
pub fn of(view: View<'_>, tool: &str, scope: Scope) -> Result<Definition, Error> {
    of_version(view, tool, scope, None)
}

/// Returns the definition in the wanted version; else in the version of the settings, else in the installed one.
pub fn of_version(view: View<'_>, tool: &str, scope: Scope, wanted: Option<&str>) -> Result<Definition, Error> {
    let places;
    let view = match scope {
        // What is global is the same in every directory.
        Scope::Global => {
            places = view.places.without_project();
            View { places: &places, ..view }
        }
        Scope::Project => view,
    };
    let settings = settings(view, scope);
    let over = settings.overrides.get(tool).cloned().unwrap_or_default();
    let wanted = wanted.map(str::to_owned).or_else(|| over.version.clone());
    let installed = || Some(record::get(view.home, tool).ok()??.version).filter(|_| scope == Scope::Global);
    let version = wanted.clone().or_else(installed);
    let mut found = catalog::find_version(view.places, tool, version.as_deref())?;
    if scope == Scope::Project && is_shaped_by_project(view, &found, version.as_deref()) {
        // The client of this image is not the one that ships, and learned hosts count in all projects.
        found.recipe.ecosystems.clear();
        found.recipe.lsp.iter_mut().for_each(|lsp| lsp.ecosystems.clear());
    }
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
    Ok(Definition { arch: view.home.arch(), found: CatalogRecipe { recipe, origin: found.origin }, version: wanted, lock_file, project })
}

/// True if the project changes the recipe of a tool, or adds anything to its image.
fn is_shaped_by_project(view: View<'_>, found: &CatalogRecipe, version: Option<&str>) -> bool {
    let tool = &found.recipe.name;
    let adds = view.project_settings.overrides.get(tool).is_some_and(Override::adds_to_image);
    let of_user = || catalog::find_version(&view.places.without_project(), tool, version);
    adds || view.places.has_project() && of_user().map_or(true, |of_user| of_user.recipe != found.recipe || has_own_addon(view, tool))
}

/// True if an add-on of a tool is a file of the project.
fn has_own_addon(view: View<'_>, tool: &str) -> bool {
    let addons = view.settings.overrides.get(tool).map(|over| over.addons.as_slice()).unwrap_or_default();
    let of_user = view.places.without_project();
    addons.iter().any(|name| match (addon::find(view.places, name), addon::find(&of_user, name)) {
        (Ok(with), Ok(without)) => with != without,
        _ => true,
    })
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

/// Returns the tools claimed by the project's settings and its lock.
pub fn claimed(view: View<'_>) -> Result<BTreeSet<String>, Error> {
    let mut tools = view.project_settings.claims();
    // The lock also has entries of language servers, which are not tools.
    tools.extend(lock_files::of_project(view)?.into_keys().filter(|name| check_name(name).is_ok()));
    Ok(tools)
}

/// Finds the current image of the project's tool; `None` if the project does not claim the tool.
///
/// Definition and lock together determine the image, so an image of another definition is never found. A project without a lock of the tool
/// has the image of the recipe's lock, which a sync would write into silo.lock.
pub fn image(view: View<'_>, tool: &str) -> Result<Option<Installed>, Error> {
    if !is_claimed(view, tool)? {
        return Ok(None);
    }
    let definition = of(view, tool, Scope::Project)?;
    let platform = Some(definition.arch).filter(|arch| *arch != Arch::host()).map(Arch::platform);
    let not_built = |why| Error::NotBuilt { tool: tool.to_owned(), platform: platform.clone(), why };
    let lock = lock_files::usable(view, &definition)?.ok_or_else(|| not_built("its entry in silo.lock is missing or out of date"))?;
    let version = lock_files::version(&definition, &lock);
    if definition.version.as_ref().is_some_and(|wanted| !is_of(&version, wanted)) {
        return Err(not_built("its recipe does not have the version of silo.toml"));
    }
    let found = silo_build::known(view.home, &definition.target(&lock));
    let image = found.ok_or_else(|| not_built("this version of silo.toml and silo.lock was never built on this machine"))?;
    Ok(Some(Installed { name: tool.to_owned(), version, image }))
}

/// Finds the current image of a tool: the project's if the project claims the tool, else the installed one.
pub fn current(view: View<'_>, tool: &str) -> Result<Option<Installed>, Error> {
    match image(view, tool)? {
        Some(own) => Ok(Some(own)),
        None => Ok(record::get(view.home, tool)?),
    }
}

/// Returns the scope of a tool: the project if it claims the tool, else global.
pub fn scope(view: View<'_>, tool: &str) -> Result<Scope, Error> {
    Ok(if is_claimed(view, tool)? { Scope::Project } else { Scope::Global })
}

fn is_claimed(view: View<'_>, tool: &str) -> Result<bool, Error> {
    let settings = view.project_settings;
    let listed = settings.tools.iter().any(|name| name == tool);
    let shaped = settings.overrides.get(tool).is_some_and(Override::shapes_image);
    Ok(listed || shaped || lock_files::of_project(view)?.contains_key(tool))
}
