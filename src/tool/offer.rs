//! What can be had: each tool with its versions, its size and where it comes from, told from its recipe and lock alone.

use crate::lock::Lock;
use crate::recipe::Recipe;
use crate::recipe::catalog::{self, Origin};
use crate::system::Arch;

use super::View;
use super::definition::{self, Definition, Scope};
use super::locking;
use super::record::{self, Installed};

/// A tool that can be had.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What it is here.
    pub definition: Definition,
    /// Its lock, where it has one that fits.
    pub lock: Option<Lock>,
    /// Its version, where the lock or the recipe says it.
    pub version: Option<String>,
    /// What of it is installed.
    pub installed: Option<Installed>,
}

/// What a lock says of one machine's share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Packages.
    pub packages: usize,
    /// Bytes of the packages' files, which are fetched.
    pub fetched: u64,
    /// Bytes of the files that its pinned steps make; of several versions, the most.
    pub made: u64,
}

/// Tells of one tool.
pub fn of(view: View<'_>, tool: &str, scope: Scope) -> Result<Offer, definition::Error> {
    let definition = definition::of(view, tool, scope)?;
    let lock = locking::existing(view, &definition)?;
    let own = || definition.found.recipe.version.clone();
    let version = lock.as_ref().map(|lock| locking::version(&definition.found, lock)).or_else(own);
    Ok(Offer { version, lock, installed: record::get(view.home, tool)?, definition })
}

/// Tells of every tool that there is a recipe for, by name.
pub fn all(view: View<'_>) -> Result<Vec<Offer>, definition::Error> {
    catalog::names(view.places)?.iter().map(|name| of(view, name, Scope::Global)).collect()
}

impl Offer {
    /// Its recipe, resolved.
    pub fn recipe(&self) -> &Recipe {
        &self.definition.found.recipe
    }

    /// Where it comes from: whose recipe, and the release or the ecosystems that its parts are of.
    pub fn source(&self) -> String {
        let recipe = self.recipe();
        let base = recipe.image.as_ref().map_or_else(|| format!("Debian {}", recipe.debian.suite), |image| format!("the image {image}"));
        let mut parts = vec![base];
        let mut more: Vec<&str> = recipe.steps.iter().flat_map(|step| &step.network).map(String::as_str).collect();
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

    /// What this machine would fetch and make of it.
    pub fn weight(&self) -> Weight {
        let Some(lock) = &self.lock else { return Weight::default() };
        let packages = lock.packages_of(Arch::host());
        // The pins of other versions are no part of the recipe's own.
        let steps = lock.steps.get(&Arch::host()).filter(|_| !self.recipe().steps.is_empty());
        Weight {
            packages: packages.map_or(0, |packages| packages.len()),
            fetched: packages.map_or(0, |packages| packages.values().map(|package| package.size).sum()),
            made: steps.and_then(|steps| steps.values().map(|step| step.size).max()).unwrap_or(0),
        }
    }

    /// Says whether all `words`, in small letters, stand in what is told of the tool: name, description, commands, packages.
    pub fn speaks_of(&self, words: &[String]) -> bool {
        let recipe = self.recipe();
        let told = [&recipe.name, &recipe.description].into_iter().chain(recipe.run.shims.keys()).chain(&recipe.debian.packages);
        let told = told.map(|text| text.to_lowercase()).collect::<Vec<_>>().join("\n");
        words.iter().all(|word| told.contains(word.as_str()))
    }
}
