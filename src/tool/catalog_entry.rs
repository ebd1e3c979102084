//! Catalogue entries: each tool with its versions, size and origin, from its recipe and lock only.

use silo_base::grant::Grant;
use silo_model::lock::Lock;
use silo_model::recipe::Recipe;
use silo_model::recipe::catalog::{self, Origin};

use super::View;
use super::definition::{self, Definition, Scope};
use super::lock_files;
use super::record::{self, Installed};

/// A catalogue entry.
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    /// The tool's definition.
    pub definition: Definition,
    /// Its lock, if it has a current one.
    pub lock: Option<Lock>,
    /// Its version, from the lock or the recipe.
    pub version: Option<String>,
    /// The installed tool of this name.
    pub installed: Option<Installed>,
}

/// Size of a tool on this architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToolSize {
    /// Number of packages.
    pub packages: usize,
    /// Bytes of the packages' files, which are downloaded.
    pub fetched: u64,
    /// Bytes of the files that its pinned steps make; of several versions, the largest.
    pub made: u64,
}

/// Returns the entry of a tool.
pub fn of(view: View<'_>, tool: &str, scope: Scope) -> Result<CatalogEntry, definition::Error> {
    let definition = definition::of(view, tool, scope)?;
    let lock = lock_files::existing(view, &definition)?;
    let own = || definition.found.recipe.version.clone();
    let version = lock.as_ref().map(|lock| lock_files::version(&definition, lock)).or_else(own);
    Ok(CatalogEntry { version, lock, installed: record::get(view.home, tool)?, definition })
}

/// Returns the entries of all recipes, by name.
pub fn all(view: View<'_>) -> Result<Vec<CatalogEntry>, definition::Error> {
    catalog::names(view.places)?.iter().map(|name| of(view, name, Scope::Global)).collect()
}

impl CatalogEntry {
    /// Returns its resolved recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.definition.found.recipe
    }

    /// Describes its origin: the recipe's, and the release or image and the ecosystems of its parts.
    pub fn source(&self) -> String {
        let recipe = self.recipe();
        let base = recipe.image.as_ref().map_or_else(|| format!("Debian {}", recipe.debian.suite), |image| format!("the image {image}"));
        let mut parts = vec![base];
        let mut more: Vec<&str> = recipe.steps.iter().flat_map(|step| &step.network).map(Grant::as_str).collect();
        more.sort_unstable();
        more.dedup();
        parts.extend(more.into_iter().map(str::to_owned));
        let origin = match self.definition.found.origin {
            Origin::BuiltIn => "",
            Origin::User => ", your recipe",
            Origin::Project => ", the project's recipe",
        };
        format!("{}{origin}", parts.join(" + "))
    }

    /// Returns the size of the tool on this machine.
    pub fn weight(&self) -> ToolSize {
        let Some(lock) = &self.lock else { return ToolSize::default() };
        let packages = lock.packages_of(self.definition.arch);
        // Without steps of its own, the recipe's pins belong to other versions.
        let steps = lock.steps.get(&self.definition.arch).filter(|_| !self.recipe().steps.is_empty());
        ToolSize {
            packages: packages.map_or(0, |packages| packages.len()),
            fetched: packages.map_or(0, |packages| packages.values().map(|package| package.size).sum()),
            made: steps.and_then(|steps| steps.values().map(|step| step.size).max()).unwrap_or(0),
        }
    }

    /// Returns true if name, description, commands and packages of the tool contain all `words`, which must be lower case.
    pub fn speaks_of(&self, words: &[String]) -> bool {
        let recipe = self.recipe();
        let told = [&recipe.name, &recipe.description].into_iter().chain(recipe.run.shims.keys()).chain(&recipe.debian.packages);
        let told = told.map(|text| text.to_lowercase()).collect::<Vec<_>>().join("\n");
        words.iter().all(|word| told.contains(word.as_str()))
    }
}
