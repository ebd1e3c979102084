//! Copies the inputs of tools into a repository, for builds that ask no other server.

use std::cell::OnceCell;

use silo_store::digest::LayerId;
use silo_store::flock as store_lock;

use silo_build::inputs;
use silo_model::lock::{self, Lock, StepOutput};
use silo_model::oci::location::Location;
use silo_model::oci::manifest::Pointer;
use silo_ship::vendor::{self, File, Subject, Vendored};
use silo_sign::external::Signer;

use super::Context;
use super::definition::{self, Definition, Scope};
use super::install;
use super::lock_files::{self, Resolving};
use super::shipping::shipping;

/// Error of a copy of inputs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition of the tool cannot be read.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The lock of the tool cannot be read.
    #[error(transparent)]
    Lock(#[from] lock_files::Error),
    /// An input cannot be fetched.
    #[error(transparent)]
    Build(#[from] silo_build::Error),
    /// The store cannot be locked.
    #[error(transparent)]
    Store(#[from] silo_store::path_error::PathError),
    /// The transfer failed.
    #[error(transparent)]
    Ship(#[from] silo_ship::Error),
    /// The output of a step is not on this machine.
    #[error("{tool}: the output of `{command}` is not on this machine")]
    NoOutput {
        /// The tool.
        tool: String,
        /// The command.
        command: String,
    },
}

/// Copies the inputs of a tool: the files that its lock names, and the outputs of its steps with a network.
pub fn vendor(context: &Context<'_>, tool: &str, to: &Location, signer: Option<&Signer>) -> Result<Vendored, Error> {
    let scope = definition::scope(context.view(), tool)?;
    let global = (scope == Scope::Global).then(|| context.without_project());
    let context = global.as_ref().unwrap_or(context);
    let definition = definition::of(context.view(), tool, scope)?;
    let lock = lock_files::obtain(context, &definition, Resolving::Frozen)?;
    let shared = store_lock::share(context.store)?;
    let mirrors = OnceCell::new();
    let shop = install::workshop(context, &shared, &mirrors);
    let target = definition.target(&lock);
    let files = inputs::fetch(&shop, &target)?.into_iter();
    let file =
        |file: inputs::InputFile| File { name: file.name, path: file.path, pointer: Pointer { digest: file.digest, size: file.size } };
    let subject = Subject {
        drv: silo_build::derivation_of_inputs(&target),
        arch: target.arch,
        files: files.map(file).collect(),
        outputs: outputs(context, &definition, &lock)?,
        tool: Some((tool.to_owned(), lock_files::version(&definition, &lock))),
        lock: Some(lock::write(&[(tool.to_owned(), lock.clone())].into())),
    };
    let shipping = shipping(context, &shared);
    Ok(vendor::push(&shipping, &shipping.repository(to.clone()), &subject, signer)?)
}

/// Returns the steps whose outputs the lock pins, and their layers.
fn outputs(context: &Context<'_>, definition: &Definition, lock: &Lock) -> Result<Vec<(silo_store::digest::Digest, LayerId)>, Error> {
    let steps = lock.steps.get(&definition.arch).into_iter().flatten();
    // A lock with several versions pins the steps of all of them; those of others were never built here.
    let is_ours = |output: &StepOutput| definition.found.recipe.versions.is_empty() || context.store.has(&LayerId::new(output.layer.0));
    steps
        .filter(|(_, output)| is_ours(output))
        .map(|(step, output)| {
            let layer = LayerId::new(output.layer.0);
            let missing = || Error::NoOutput { tool: definition.tool().to_owned(), command: output.command.clone() };
            context.store.has(&layer).then_some((step.0, layer)).ok_or_else(missing)
        })
        .collect()
}
