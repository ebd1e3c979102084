//! One-off tools: built for a run, without being installed.
//!
//! The image of a one-off tool has no GC root, so it is collected like any other unneeded image. A lock that no recipe ships is stored in
//! `~/.silo/one-off/`, so that the next run uses the same image. Garbage collection removes the lock, too, if it is not used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image;
use silo_model::document;
use silo_model::lock::{self, Lock, PackageRequest};
use silo_model::recipe::{Recipe, Step};
use silo_store::digest::Digest;
use silo_store::flock as store_lock;
use silo_store::path_error::PathError;
use silo_store::private;

use super::collect;
use super::definition::{self, Definition, Scope};
use super::install::{self, BuiltTool, Error, InstallOptions};
use super::lock_files::{self, Resolving};
use super::record::Installed;
use super::{Context, View};

/// A requested one-off tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneOffOptions {
    /// The tool.
    pub name: String,
    /// The version or a prefix of one.
    pub version: Option<String>,
    /// True to lock today's packages, instead of those of an earlier run.
    pub update: bool,
    /// Steps after the recipe's own.
    pub steps: Vec<Step>,
}

/// A one-off tool, ready to run.
#[derive(Clone, Debug)]
pub struct OneOff {
    /// Its name, version and image.
    pub tool: Installed,
    /// Its recipe.
    pub recipe: Recipe,
}

/// Returns a one-off tool, if its image exists. A project's own recipes do not count.
pub fn find(view: View<'_>, wish: &OneOffOptions) -> Result<Option<OneOff>, Error> {
    let definition = definition(view, wish)?;
    let path = path(view.home, &definition);
    let own = lock_files::existing(view, &definition)?;
    for lock in newest_first(own, stored(&path, &definition)) {
        let version = install::check_version(&definition, &lock)?;
        if let Some(image) = silo_build::known(view.home, &definition.target(&lock)).filter(|id| image::is_there(view.home, *id)) {
            image::stamp(&path);
            let tool = Installed { name: definition.tool().to_owned(), version, image };
            return Ok(Some(OneOff { tool, recipe: definition.found.recipe }));
        }
    }
    Ok(None)
}

/// Builds the image of a one-off tool.
pub fn build(context: &Context<'_>, wish: &OneOffOptions) -> Result<(), Error> {
    let context = context.without_project();
    let definition = definition(context.view(), wish)?;
    let path = path(context.home, &definition);
    let own = lock_files::existing(context.view(), &definition)?;
    let shared = store_lock::share(context.store).map_err(|source| Error::Store(Box::new(source)))?;
    let earlier = newest_first(own.clone(), stored(&path, &definition));
    let lock = match earlier.first().filter(|_| !wish.update) {
        Some(lock) => lock.clone(),
        None => lock_files::resolve_after(&context, &definition, &earlier)?,
    };
    let options = InstallOptions { name: wish.name.clone(), version: None, resolving: Resolving::Allowed, anew: false, with: Vec::new() };
    let made = install::make(&context, &shared, &definition, lock, &options)?;
    let lock = own_pins(&made, definition.arch);
    if own.as_ref() != Some(&lock) {
        keep(&path, &definition, &lock).map_err(lock_files::Error::from)?;
    }
    // The packages of a script may replace the client, and learned hosts count in all projects.
    if wish.steps.is_empty() {
        install::learn(&context, &definition.found.recipe, made.image());
    }
    drop(shared);
    collect::by_itself(&context);
    Ok(())
}

/// Orders the lock of a recipe and the one of an earlier run: the recipe's first, unless the other one has later packages.
fn newest_first(own: Option<Lock>, stored: Option<Lock>) -> Vec<Lock> {
    let mut locks: Vec<Lock> = own.into_iter().chain(stored).collect();
    locks.sort_by_key(|lock| std::cmp::Reverse(lock.epoch));
    locks
}

/// Returns the lock with the pins of this build only. A recipe's lock has those of all its versions, and the image's derivation has only
/// those of its own.
fn own_pins(made: &BuiltTool, arch: Arch) -> Lock {
    let mut lock = made.lock.clone();
    if let Some(outputs) = &made.built.outputs {
        lock.steps.remove(&arch);
        if !outputs.is_empty() {
            lock.steps.insert(arch, outputs.clone());
        }
    }
    made.built.note(arch, &mut lock);
    lock
}

fn definition(view: View<'_>, wish: &OneOffOptions) -> Result<Definition, Error> {
    let mut definition = definition::of_version(view, &wish.name, Scope::Global, wish.version.as_deref())?;
    definition.found.recipe.steps.extend(wish.steps.iter().cloned());
    Ok(definition)
}

/// Returns the path of the stored lock of a definition.
fn path(home: &Home, definition: &Definition) -> PathBuf {
    let debian = &definition.found.recipe.debian;
    let version = definition.version.clone().unwrap_or_default();
    let parts = [definition.tool(), &version, &debian.suite].into_iter();
    let packages = debian.packages.iter().chain(&debian.added).map(String::as_str);
    let steps: Vec<String> = definition.found.recipe.steps.iter().map(Step::shown).collect();
    let key: String =
        parts.chain(packages).chain(steps.iter().map(String::as_str)).map(|part| format!("{} {part}\n", part.len())).collect();
    home.one_off().join(format!("{}-{:.16}.lock", definition.tool(), Digest::of(key.as_bytes()).to_string()))
}

/// Reads a stored lock; one that cannot be read or does not fit is made again.
fn stored(path: &Path, definition: &Definition) -> Option<Lock> {
    let text = document::text_of(path).ok()??;
    let lock = lock::parse(&text, path).ok()?.remove(definition.tool())?;
    (lock.asked == PackageRequest::by(&definition.found.recipe)).then_some(lock)
}

fn keep(path: &Path, definition: &Definition, lock: &Lock) -> Result<(), PathError> {
    if let Some(dir) = path.parent() {
        private::make_dir(dir)?;
    }
    let text = lock::write(&BTreeMap::from([(definition.tool().to_owned(), lock.clone())]));
    document::write(path, &text).map_err(|source| PathError { doing: "write", path: path.to_owned(), source })
}
