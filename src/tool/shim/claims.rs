//! Reads the tools claimed in a directory, by its project's files and by the user's settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use silo_base::home::{Home, PROJECT_LOCK};
use silo_model::config::Settings;
use silo_model::config::discover;
use silo_model::config::legacy::SettingsOwner;
use silo_model::config::project::ProjectFiles;
use silo_model::config::read;
use silo_model::lock;
use silo_model::recipe::addon;
use silo_model::recipe::catalog::{Error, RecipeSources};

use super::fall_through::Claims;

/// Reads the claims that hold in `dir`. An unreadable file is an error, because it may claim the tool.
pub fn read(home: &Home, dir: &Path) -> Result<Claims, Error> {
    of(home, &ProjectFiles::read(&discover::project(dir).root)?)
}

/// Returns the claims of project files that are already read, and of the user's settings.
pub fn of(home: &Home, files: &ProjectFiles) -> Result<Claims, Error> {
    let settings = read::of_project(files)?.0;
    let mut project = settings.claims();
    if let Some(text) = files.text(PROJECT_LOCK)? {
        project.extend(lock::names(text).map(str::to_owned));
    }
    let places = RecipeSources { user: Some(home.recipes()), project: files.recipes(), draft: None };
    let local = local(&places, &settings)?;
    let user = read::read_any(&home.config(), &home.legacy_config(), SettingsOwner::User)?.0.claims();
    Ok(Claims { project, local, user, root: files.root().to_owned() })
}

/// Returns the commands of the project's add-ons, by tool.
fn local(places: &RecipeSources, settings: &Settings) -> Result<BTreeMap<String, BTreeSet<String>>, Error> {
    let mut local = BTreeMap::new();
    for (tool, over) in &settings.overrides {
        let commands: &mut BTreeSet<String> = local.entry(tool.clone()).or_default();
        for name in &over.addons {
            commands.extend(addon::find(places, name)?.into_iter().flat_map(|addon| addon.shims.into_keys()));
        }
    }
    Ok(local)
}
