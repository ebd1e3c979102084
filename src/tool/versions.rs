//! The available versions of a tool, and the version files of a project.

use std::path::Path;

use silo_model::document;
use silo_model::recipe::catalog::{self, CatalogRecipe};
use silo_model::version_files::findings::Findings;
use silo_model::version_files::read;
use silo_model::version_request::AvailableVersion;

use super::View;
use super::definition::{self, Definition};
use super::lock_files;

/// Returns the versions that the recipe of a tool has; `None` if its own version is not known before it is locked.
pub fn available(view: View<'_>, tool: &str) -> Result<Option<Vec<AvailableVersion>>, definition::Error> {
    let found = catalog::find(view.places, tool)?;
    let definition = of_recipe(view, found);
    let recipe = &definition.found.recipe;
    let Some(own) = locked(view, &definition)?.or_else(|| recipe.version.clone()) else { return Ok(None) };
    let mut versions = Vec::new();
    for (key, other) in &recipe.versions {
        let exact =
            if other.is_packaged { locked(view, &of_recipe(view, catalog::find_version(view.places, tool, Some(key))?))? } else { None };
        versions.push(AvailableVersion { version: exact.unwrap_or_else(|| key.clone()), label: other.label.clone() });
    }
    if versions.iter().all(|one| one.version != own) {
        versions.push(AvailableVersion { version: own, label: String::new() });
    }
    Ok(Some(versions))
}

fn of_recipe(view: View<'_>, found: CatalogRecipe) -> Definition {
    Definition { found, version: None, lock_file: None, project: None, arch: view.home.arch() }
}

/// Returns the version of a definition in its lock, if it has one.
fn locked(view: View<'_>, definition: &Definition) -> Result<Option<String>, definition::Error> {
    Ok(lock_files::existing(view, definition)?.map(|lock| lock_files::version(definition, &lock)))
}

/// Reads the version files of a project's directory.
pub fn files_in(dir: &Path) -> Findings {
    let mut found = Findings::default();
    for file in read::FILES {
        let path = dir.join(file);
        if read::BY_PRESENCE.contains(&file) {
            if path.is_file() {
                read::read(file, "", &mut found);
            }
            continue;
        }
        match document::text_of(&path) {
            Ok(Some(text)) => read::read(file, &text, &mut found),
            Ok(None) => {}
            Err(error) => found.notes.push(format!("{file} is not read: {error}")),
        }
    }
    found
}
