//! Finds the lock of a recipe, and stores new locks.
//!
//! A built-in recipe ships its lock. A recipe of the user or the project has its lock beside it (`recipes/<tool>.lock`). A lock that `silo
//! lock` made on this machine for a built-in recipe is stored in the home and has priority over the shipped one. The tools of a project are
//! locked only in its `silo.lock`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;
use silo_store::private;

use crate::journal::{self, Change};
use silo_base::home::{Home, PROJECT_LOCK};
use silo_model::document;
use silo_model::lock::{self, Lock, Package, PackageRequest};
use silo_model::recipe::catalog::{self, CatalogRecipe, Origin};

use super::defined_tool::Definition;
use super::trust;
use super::{Context, View};
use super::{lock_error, resolve_lock};

/// Error of finding or making a lock.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The recipe has no current lock, and making one is forbidden.
    #[error("{tool}: the lock of the recipe is missing or out of date, and --frozen is set")]
    Frozen {
        /// The tool.
        tool: String,
    },
    /// The project's lock has no current lock of the tool, and may not be changed.
    #[error("{path}: the lock of {tool} is missing or out of date, and --frozen is set", path = .path.display())]
    FrozenProject {
        /// The tool.
        tool: String,
        /// The lock file.
        path: PathBuf,
    },
    /// Making a new lock failed.
    #[error("cannot lock {tool}")]
    Relock {
        /// The tool.
        tool: String,
        /// The cause.
        #[source]
        source: Box<lock_error::Error>,
    },
    /// The lock could not be recorded as written by silo.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The new lock could not be written.
    #[error(transparent)]
    Write(#[from] PathError),
}

/// Permission to make a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolving {
    /// Allowed.
    Allowed,
    /// Forbidden: `--frozen`.
    Frozen,
}

impl Resolving {
    /// Converts the flag `--frozen`.
    pub fn of_flag(frozen: bool) -> Resolving {
        if frozen { Resolving::Frozen } else { Resolving::Allowed }
    }
}

/// Returns the lock to build a tool from; makes one if there is none. Does not store it.
pub fn obtain(context: &Context<'_>, definition: &Definition, resolving: Resolving) -> Result<Lock, Error> {
    if let Some(lock) = existing(context.view(), definition)? {
        return Ok(lock);
    }
    let tool = definition.tool().to_owned();
    match (resolving, &definition.lock_file) {
        (Resolving::Frozen, Some(path)) => Err(Error::FrozenProject { tool, path: path.clone() }),
        (Resolving::Frozen, None) => Err(Error::Frozen { tool }),
        // If the project changes nothing about a tool, its lock is the tested one of the recipe.
        (Resolving::Allowed, Some(_)) => match of_recipe(context.view(), &definition.found)? {
            Some(lock) => Ok(lock),
            None => resolve(context, definition),
        },
        (Resolving::Allowed, None) => resolve(context, definition),
    }
}

/// Returns the lock that a build would use without changing a pin: the stored one; for a project that has no lock of the tool yet, the
/// recipe's.
pub fn usable(view: View<'_>, definition: &Definition) -> Result<Option<Lock>, Error> {
    if let Some(lock) = existing(view, definition)? {
        return Ok(Some(lock));
    }
    let is_locked = definition.project.is_some() && of_project(view)?.contains_key(definition.tool());
    if is_locked { Ok(None) } else { of_recipe(view, &definition.found) }
}

/// Returns the stored lock of a tool, if it matches the tool's definition.
pub fn existing(view: View<'_>, definition: &Definition) -> Result<Option<Lock>, Error> {
    let Some(path) = &definition.lock_file else { return of_recipe(view, &definition.found) };
    let asked = PackageRequest::by(&definition.found.recipe);
    let mut locks = if *path == view.project.join(PROJECT_LOCK) { of_project(view)? } else { read(path)? };
    Ok(locks.remove(definition.tool()).filter(|lock| lock.asked == asked))
}

/// Returns the lock of a recipe, if it matches the recipe.
pub(super) fn of_recipe(view: View<'_>, found: &CatalogRecipe) -> Result<Option<Lock>, Error> {
    let asked = PackageRequest::by(&found.recipe);
    let (tool, name) = (&found.recipe.name, &found.recipe.lock_name);
    let path = path(view, found);
    let text = match &view.places.project {
        Some(recipes) if found.origin == Origin::Project => recipes.text(&format!("{tool}.lock"))?.map(str::to_owned),
        _ => document::text_of(&path)?,
    };
    let mut locks = text.map_or_else(|| Ok(BTreeMap::new()), |text| lock::parse(&text, &path))?;
    if let Some(lock) = locks.remove(name).filter(|lock| lock.asked == asked) {
        return Ok(Some(lock));
    }
    Ok(shipped(tool, name)?.filter(|lock| lock.asked == asked))
}

/// Returns the lock of a version, or of its language server, that ships with a built-in recipe.
fn shipped(tool: &str, name: &str) -> Result<Option<Lock>, Error> {
    let tool = lock::without_server(tool);
    // Only the part of one version is parsed: a run needs no other.
    let part = catalog::built_in(tool).and_then(|builtin| lock::part(builtin.lock, name));
    let Some(part) = part else { return Ok(None) };
    Ok(lock::parse(&part, &PathBuf::from(format!("recipes/{tool}.lock")))?.remove(name))
}

/// Changed locks, by file, that are written together at the end.
#[derive(Debug, Default)]
pub struct Staged {
    files: BTreeMap<PathBuf, (Option<String>, BTreeMap<String, Lock>)>,
}

impl Staged {
    /// Adds a tool's lock to its file; returns true if anything changes.
    pub fn put(&mut self, view: View<'_>, definition: &Definition, lock: &Lock) -> Result<bool, Error> {
        // Do not store a copy of a shipped lock: it would have priority over the lock of a later version of silo.
        if definition.lock_file.is_none() && of_recipe(view, &definition.found).ok().flatten().as_ref() == Some(lock) {
            return Ok(false);
        }
        let path = definition.lock_file.clone().unwrap_or_else(|| path(view, &definition.found));
        if !self.files.contains_key(&path) {
            let before = document::text_of(&path)?;
            let locks = match before.as_ref().map(|text| lock::parse(text, &path)) {
                None => BTreeMap::new(),
                Some(Ok(locks)) => locks,
                // A lock of another version is replaced.
                Some(Err(document::Error::Meaning { .. })) => BTreeMap::new(),
                Some(Err(error)) => return Err(error.into()),
            };
            self.files.insert(path.clone(), (before, locks));
        }
        let (_, locks) = self.files.get_mut(&path).expect("it was put there");
        let name = if definition.lock_file.is_some() { definition.tool() } else { &definition.found.recipe.lock_name };
        if locks.get(name) == Some(lock) {
            return Ok(false);
        }
        locks.insert(name.to_owned(), lock.clone());
        Ok(true)
    }

    /// Returns the changes of files.
    pub fn changes(self, home: &Home) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for (path, (before, locks)) in self.files {
            if before.as_ref().is_some_and(|before| lock::parse(before, &path).is_ok_and(|old| old == locks)) {
                continue;
            }
            if let Some(dir) = path.parent() {
                private::make_dir(dir)?;
            }
            changes.push(Change::new(home, &path, before, Some(lock::write(&locks)))?);
        }
        Ok(changes)
    }
}

/// Writes a tool's lock to its file; returns true if anything changed.
pub fn keep(view: View<'_>, definition: &Definition, lock: &Lock) -> Result<bool, Error> {
    let mut staged = Staged::default();
    let is_new = staged.put(view, definition, lock)?;
    trust::commit(view.home, view.project, &staged.changes(view.home)?)?;
    Ok(is_new)
}

/// Makes a tool's lock from today's indexes, which must not be older than those of its last lock.
pub fn resolve(context: &Context<'_>, definition: &Definition) -> Result<Lock, Error> {
    resolve_after(context, definition, &[])
}

/// Makes a tool's lock from today's indexes, which must not be older than those of these locks and of its last one.
pub fn resolve_after(context: &Context<'_>, definition: &Definition, earlier: &[Lock]) -> Result<Lock, Error> {
    let (found, tool) = (&definition.found, definition.tool());
    let failed = |source| Error::Relock { tool: tool.to_owned(), source: Box::new(source) };
    let lock = resolve_lock::relock(context, &found.recipe).map_err(failed)?;
    let name = &found.recipe.lock_name;
    let own = last(&path(context.view(), found), name);
    let of_project = definition.lock_file.as_ref().and_then(|file| last(file, tool));
    let shipped = if found.origin == Origin::BuiltIn { shipped(tool, name)? } else { None };
    for before in own.into_iter().chain(of_project).chain(shipped).chain(earlier.iter().cloned()) {
        resolve_lock::check_age(context, &lock, &before).map_err(failed)?;
    }
    Ok(lock)
}

/// Returns the last lock of a tool in a file; an unreadable file is replaced anyway.
fn last(path: &Path, name: &str) -> Option<Lock> {
    read(path).ok()?.remove(name)
}

/// Returns the path of a recipe's lock.
pub fn path(view: View<'_>, found: &CatalogRecipe) -> PathBuf {
    let dir = match found.origin {
        Origin::BuiltIn => None,
        Origin::User => view.places.user.clone(),
        Origin::Project => view.places.project.as_ref().map(|recipes| recipes.dir().to_owned()),
    };
    dir.unwrap_or_else(|| view.home.locks()).join(format!("{}.lock", found.recipe.name))
}

/// Returns the change that removes a tool from a lock file; `None` if the file does not have it.
pub fn forget(home: &Home, path: &Path, tool: &str) -> Result<Option<Change>, Error> {
    let before = document::text_of(path)?;
    let mut locks = read(path)?;
    if locks.remove(tool).is_none() {
        return Ok(None);
    }
    locks.remove(&lock::server(tool));
    let after = (!locks.is_empty()).then(|| lock::write(&locks));
    Ok(Some(Change::new(home, path, before, after)?))
}

/// Reads the locks of the project, from the text of its files that was judged.
pub fn of_project(view: View<'_>) -> Result<BTreeMap<String, Lock>, Error> {
    let path = view.project.join(PROJECT_LOCK);
    match view.files.map(|files| files.text(PROJECT_LOCK)).transpose()? {
        None => read(&path),
        Some(None) => Ok(BTreeMap::new()),
        Some(Some(text)) => Ok(lock::parse(text, &path)?),
    }
}

/// Reads a lock file; a missing one has no locks.
pub fn read(path: &Path) -> Result<BTreeMap<String, Lock>, Error> {
    match document::text_of(path)? {
        Some(text) => Ok(lock::parse(&text, path)?),
        None => Ok(BTreeMap::new()),
    }
}

/// Writes a lock file that the user named.
pub fn write(home: &Home, path: &Path, locks: &BTreeMap<String, Lock>) -> Result<(), Error> {
    let before = document::text_of(path)?;
    Ok(journal::commit(home, &[Change::new(home, path, before, Some(lock::write(locks)))?])?)
}

/// Returns a tool's version: the recipe's, or the upstream version of its main package in a lock.
pub fn version(definition: &Definition, lock: &Lock) -> String {
    let found = &definition.found;
    if let Some(version) = &found.recipe.version {
        return version.clone();
    }
    let packages = lock.packages.get(&definition.arch);
    let package: Option<&Package> = packages.and_then(|packages| packages.get(&found.recipe.debian.version_of));
    package.map_or_else(|| "unknown".to_owned(), |package| upstream(&package.version))
}

/// Removes the epoch and revision of a Debian version, and the suffix of a repackaged source.
fn upstream(version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let version = version.rsplit_once('-').map_or(version, |(rest, _)| rest);
    version.split(['+', '~']).next().unwrap_or(version).to_owned()
}

#[cfg(test)]
mod tests {
    use super::upstream;

    #[test]
    fn versions_are_upstreams() {
        for (version, expect) in
            [("3.13.5-1", "3.13.5"), ("1:2.0~rc1-3", "2.0"), ("13.8+deb13u2", "13.8"), ("1.3.dfsg+really1.3.1-1", "1.3.dfsg")]
        {
            assert_eq!(upstream(version), expect);
        }
    }
}
