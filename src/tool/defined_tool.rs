//! A tool as defined in a scope: the recipe with all overrides, and the place of its lock.

use std::path::PathBuf;

use silo_base::system::Arch;
use silo_build::Target;
use silo_model::lock::Lock;
use silo_model::recipe::catalog::CatalogRecipe;

/// A tool as defined in a scope.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The architecture of its images.
    pub arch: Arch,
    /// The recipe with all overrides, and its origin.
    pub found: CatalogRecipe,
    /// The requested version, or a prefix of it.
    pub version: Option<String>,
    /// The lock file that must have its lock; `None` for the recipe's own lock.
    pub lock_file: Option<PathBuf>,
    /// The project with the files that its steps may see.
    pub project: Option<PathBuf>,
}

impl Definition {
    /// Returns the build target of the definition with a lock.
    pub fn target<'a>(&'a self, lock: &'a Lock) -> Target<'a> {
        Target {
            arch: self.arch,
            recipe: &self.found.recipe,
            lock,
            project: self.project.as_deref(),
            frozen: false,
            anew: false,
            notes_layers: false,
        }
    }

    /// Returns the tool's name.
    pub fn tool(&self) -> &str {
        &self.found.recipe.name
    }
}
