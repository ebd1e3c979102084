//! Learns and forgets the host names of package ecosystems, outside of builds.
//!
//! Learned hosts count in all projects, so no file of a project takes part: the probe and its client are those of the recipe without the
//! project, in an image without it.

use std::sync::atomic::{AtomicBool, Ordering};

use silo_base::event::Event;
use silo_base::system::Arch;
use silo_build::image::{self, ImageId};
use silo_build::network;
use silo_model::ecosystem::{self, Learned};
use silo_model::recipe::Recipe;
use silo_model::recipe::catalog::{self, RecipeSources};

use super::Context;
use super::defined_tool::Definition;
use super::install;
use super::one_off::{self, OneOffOptions};
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
    /// The tool with the ecosystem's client could not be built.
    #[error(transparent)]
    Install(#[from] install::Error),
    /// The probe failed.
    #[error(transparent)]
    Build(#[from] silo_build::Error),
    /// Storing or removing the host names failed.
    #[error(transparent)]
    Ecosystem(#[from] ecosystem::Error),
}

/// Learns the host names of an ecosystem again, with the client of a tool. A tool that is not installed is built for this.
pub fn learn(context: &Context<'_>, tool: &str, ecosystem: &str) -> Result<Learned, Error> {
    let context = &context.without_project();
    let found = catalog::find(&context.places, tool)?;
    let root = [image::root(context.home, client(context, tool)?)];
    Ok(network::learn(&context.learning(&found.recipe, &root), ecosystem, context.sink)?)
}

/// Returns the image of a tool without a project.
fn client(context: &Context<'_>, tool: &str) -> Result<ImageId, Error> {
    if let Some(installed) = record::get(context.home, tool)? {
        return Ok(installed.image);
    }
    let wish = OneOffOptions { name: tool.to_owned(), ..OneOffOptions::default() };
    if let Some(there) = one_off::find(context.view(), &wish)? {
        return Ok(there.tool.image);
    }
    one_off::build(context, &wish)?;
    let built = one_off::find(context.view(), &wish)?;
    built.map(|built| built.tool.image).ok_or_else(|| silo_build::Error::fault(format!("{tool} was removed after its build")).into())
}

/// Finds the tool that has the probe of an ecosystem: the preferred one, an installed one, else any.
pub fn tool_with(context: &Context<'_>, preferred: Option<&str>, ecosystem: &str) -> Result<Option<String>, Error> {
    let places = context.places.without_project();
    let installed = record::list(context.home)?.into_iter().map(|tool| tool.name);
    let tools = preferred.map(str::to_owned).into_iter().chain(installed).chain(catalog::names(&places)?);
    let mut with = tools.filter(|tool| has_probe(&places, tool, ecosystem));
    Ok(with.next())
}

fn has_probe(places: &RecipeSources, tool: &str, ecosystem: &str) -> bool {
    catalog::find(places, tool).is_ok_and(|found| found.recipe.ecosystems.contains_key(ecosystem))
}

/// Learns the ecosystems that the steps of a project's tool use, if they are unknown and the tool's own client is not asked, because the
/// project changes the tool. A failure is reported; the step then names the missing ecosystem.
pub fn learn_for_steps(context: &Context<'_>, definition: &Definition) {
    if context.transport.is_offline() || context.home.arch() != Arch::host() {
        return;
    }
    let recipe: &Recipe = &definition.found.recipe;
    let grants: Vec<_> = recipe.steps.iter().flat_map(|step| &step.network).cloned().collect();
    for name in network::unknown(context.home, &context.outside, &context.settings.ecosystems, &grants) {
        if recipe.ecosystems.contains_key(&name) {
            continue;
        }
        let learned = match tool_with(context, Some(&recipe.name), &name) {
            Ok(Some(tool)) => learn(context, &tool, &name).map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = learned {
            (context.sink)(Event::Note { text: format!("cannot learn the hosts of @{name}: {error}") });
        }
    }
}

/// Learns an ecosystem with the client of a tool's usual version, for a version whose root has no client before its steps. Returns false if
/// that fails, which is reported.
pub fn learn_with_usual_version(context: &Context<'_>, tool: &str, ecosystem: &str) -> bool {
    // The usual version may lack a client, too.
    static ONE: AtomicBool = AtomicBool::new(false);
    if context.transport.is_offline() || context.home.arch() != Arch::host() || ONE.swap(true, Ordering::AcqRel) {
        return false;
    }
    let learned = learn(context, tool, ecosystem);
    ONE.store(false, Ordering::Release);
    let text = match &learned {
        Ok(learned) => format!("learned @{ecosystem} from the client of {tool}: {}", learned.listed()),
        Err(error) => format!("cannot learn the hosts of @{ecosystem} from the client of {tool}: {error}"),
    };
    (context.sink)(Event::Note { text });
    learned.is_ok()
}

/// Forgets the host names of an ecosystem; returns false if there were none. The next step that needs them learns them again.
pub fn forget(context: &Context<'_>, ecosystem: &str) -> Result<bool, Error> {
    Ok(ecosystem::forget(context.home, ecosystem)?)
}
