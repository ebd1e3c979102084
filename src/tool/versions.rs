//! The available versions of a tool, and the version files of a project.

use std::path::Path;

use silo_model::document;
use silo_model::recipe::catalog;
use silo_model::version_files::findings::Findings;
use silo_model::version_files::read;
use silo_model::version_request::AvailableVersion;

use super::View;
use super::definition::{self, Definition};
use super::lock_files;

/// Returns the versions that the recipe of a tool has; `None` if its own version is not known before it is locked.
pub fn available(view: View<'_>, tool: &str) -> Result<Option<Vec<AvailableVersion>>, definition::Error> {
    let found = catalog::find(view.places, tool)?;
    let definition = Definition { found, version: None, lock_file: None, project: None, arch: view.home.arch() };
    let recipe = &definition.found.recipe;
    let lock = lock_files::existing(view, &definition)?;
    let own = lock.map(|lock| lock_files::version(&definition, &lock)).or_else(|| recipe.version.clone());
    let Some(own) = own else { return Ok(None) };
    let mut versions: Vec<AvailableVersion> =
        recipe.versions.iter().map(|(version, label)| AvailableVersion { version: version.clone(), label: label.clone() }).collect();
    if versions.iter().all(|one| one.version != own) {
        versions.push(AvailableVersion { version: own, label: String::new() });
    }
    Ok(Some(versions))
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
