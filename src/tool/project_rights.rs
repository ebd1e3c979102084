//! Lists the rights that a project's files give to its tools: what is built and given with these files, minus the same without them.

use std::collections::BTreeSet;

use silo_model::config::Settings;
use silo_model::recipe::addon;
use silo_model::recipe::catalog;
use silo_model::recipe::catalog::RecipeSources;
use silo_model::recipe::{Lsp, Recipe};

use super::View;
use super::definition::{self, Scope};
use super::install::Error;
use super::language_server;
use super::trust::exposure::{self, Exposures};

/// Lists the rights that the project's files give to a tool, or to all its tools.
pub fn of(view: View<'_>, tool: Option<&str>) -> Result<Exposures, Error> {
    let mut found = exposure::of_settings(view.project_settings, view.user_settings);
    let tools: BTreeSet<String> = match tool {
        Some(tool) => [tool.to_owned()].into(),
        // The tools that a sync builds, and those with a language server of the project.
        None => {
            let servers = view.project_settings.overrides.iter().filter(|(_, over)| over.lsp.is_some());
            definition::claimed(view)?.into_iter().chain(servers.map(|(tool, _)| tool.clone())).collect()
        }
    };
    for tool in &tools {
        found.extend(of_tool(view, tool)?);
    }
    Ok(found)
}

fn of_tool(view: View<'_>, tool: &str) -> Result<Exposures, Error> {
    let own_server = view.project_settings.overrides.get(tool).is_some_and(|over| over.lsp.is_some());
    if !view.places.has_project() && !own_server {
        return Ok(Exposures::new());
    }
    let Some((with, server)) = built(view, view.settings, tool)? else { return Ok(Exposures::new()) };
    let of_user = view.places.without_project();
    // The settings' own lines are those of `of_settings`, so both sides have the same packages, commands and version.
    let settings = without_own_addons(view.settings, tool, &of_user)?;
    let without = View { places: &of_user, settings: &settings, ..view };
    let without = built(without, view.user_settings, tool)?;
    let lines = |(recipe, server): (&Recipe, Option<&Lsp>)| exposure::of_recipe(recipe, server);
    let known = without.as_ref().map(|(recipe, server)| lines((recipe, server.as_ref()))).unwrap_or_default();
    Ok(lines((&with, server.as_ref())).difference(&known).cloned().collect())
}

/// Returns the recipe that is built for a project, and the language server with these settings; `None` if there is no recipe.
fn built(view: View<'_>, of_server: &Settings, tool: &str) -> Result<Option<(Recipe, Option<Lsp>)>, Error> {
    let recipe = match definition::of(view, tool, Scope::Project) {
        Ok(definition) => definition.found.recipe,
        Err(definition::Error::Recipe(catalog::Error::Unknown { .. })) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let server = language_server::laid_over(&recipe, of_server)?;
    Ok(Some((recipe, server)))
}

/// Returns the settings without those add-ons of a tool that only the project has.
fn without_own_addons(settings: &Settings, tool: &str, of_user: &RecipeSources) -> Result<Settings, Error> {
    let mut settings = settings.clone();
    if let Some(over) = settings.overrides.get_mut(tool) {
        for name in std::mem::take(&mut over.addons) {
            if addon::find(of_user, &name).map_err(definition::Error::from)?.is_some() {
                over.addons.push(name);
            }
        }
    }
    Ok(settings)
}
