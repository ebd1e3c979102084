//! Learning which names a package ecosystem is, and forgetting it, apart from any build.

use crate::build;
use crate::build::network;
use crate::ecosystem::{self, Learned};
use crate::image;
use crate::recipe::catalog;

use super::Context;
use super::record;

/// Why an ecosystem could not be learned or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error(transparent)]
    Recipe(#[from] catalog::Error),
    /// The tool's record could not be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The tool, whose client is to be asked, is not installed.
    #[error("{tool} is not installed")]
    NotInstalled {
        /// The tool.
        tool: String,
    },
    /// The probe failed.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// What was learned could not be kept or removed.
    #[error(transparent)]
    Ecosystem(#[from] ecosystem::Error),
}

/// Learns an ecosystem anew from an installed tool.
pub fn learn(context: &Context<'_>, tool: &str, ecosystem: &str) -> Result<Learned, Error> {
    let found = catalog::find(context.places, tool)?;
    let installed = record::get(context.home, tool)?.ok_or_else(|| Error::NotInstalled { tool: tool.to_owned() })?;
    let root = [image::root(context.home, installed.image)];
    Ok(network::learn(&context.learning(&found.recipe, &root), ecosystem, context.sink)?)
}

/// Forgets what was learned; returns whether there was anything. The next step that needs it learns it anew.
pub fn forget(context: &Context<'_>, ecosystem: &str) -> Result<bool, Error> {
    Ok(ecosystem::forget(context.home, ecosystem)?)
}
