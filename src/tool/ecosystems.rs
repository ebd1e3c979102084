//! Learns and forgets the host names of package ecosystems, outside of builds.

use silo_build::image;
use silo_build::network;
use silo_model::ecosystem::{self, Learned};
use silo_model::recipe::catalog;

use super::Context;
use super::record;

/// Error of learning or forgetting an ecosystem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error(transparent)]
    Recipe(#[from] catalog::Error),
    /// The tool's record could not be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The tool with the ecosystem's client is not installed.
    #[error("{tool} is not installed")]
    NotInstalled {
        /// The tool.
        tool: String,
    },
    /// The probe failed.
    #[error(transparent)]
    Build(#[from] silo_build::Error),
    /// Storing or removing the host names failed.
    #[error(transparent)]
    Ecosystem(#[from] ecosystem::Error),
}

/// Learns the host names of an ecosystem again, with the client of an installed tool.
pub fn learn(context: &Context<'_>, tool: &str, ecosystem: &str) -> Result<Learned, Error> {
    let found = catalog::find(context.places, tool)?;
    let installed = record::get(context.home, tool)?.ok_or_else(|| Error::NotInstalled { tool: tool.to_owned() })?;
    let root = [image::root(context.home, installed.image)];
    Ok(network::learn(&context.learning(&found.recipe, &root), ecosystem, context.sink)?)
}

/// Forgets the host names of an ecosystem; returns false if there were none. The next step that needs them learns them again.
pub fn forget(context: &Context<'_>, ecosystem: &str) -> Result<bool, Error> {
    Ok(ecosystem::forget(context.home, ecosystem)?)
}
