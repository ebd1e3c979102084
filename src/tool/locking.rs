//! Which lock a recipe is built from, and where a new one is kept.
//!
//! A built-in recipe ships its lock. A recipe of the user's or the project's has its lock beside it
//! (`recipes/<tool>.lock`). A lock that `silo lock` made on this machine for a built-in recipe is kept in
//! the home and comes before the one that ships. A project's tools are locked in its `silo.lock` alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;
use silo_store::private;

use crate::document;
use crate::home::{Home, PROJECT_LOCK};
use crate::journal::{self, Change};
use crate::lock::{self, Asked, Lock, Package};
use crate::recipe::catalog::{self, Found, Origin};
use crate::system::Arch;

use super::definition::Definition;
use super::relock;
use super::trust;
use super::{Context, View};

/// Why no lock could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// There is no lock for what the recipe asks for, and none may be made.
    #[error("{tool}: the recipe has no lock for what it asks for, and --frozen forbids making one")]
    Frozen {
        /// The tool.
        tool: String,
    },
    /// The project's lock does not hold the tool as it is now, and may not be changed.
    #[error("{path} has no lock for {tool} as it is now, and --frozen forbids making one", path = .path.display())]
    FrozenProject {
        /// The tool.
        tool: String,
        /// The lock file.
        path: PathBuf,
    },
    /// A new lock could not be made.
    #[error("cannot lock {tool}")]
    Relock {
        /// The tool.
        tool: String,
        /// Why not.
        #[source]
        source: Box<relock::Error>,
    },
    /// It could not be recorded that the lock is silo's own.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The new lock could not be written.
    #[error(transparent)]
    Write(#[from] PathError),
}

/// Whether a lock may be made where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolving {
    /// It may.
    Allowed,
    /// It may not: `--frozen`.
    Frozen,
}

/// Returns the lock to build a tool from, making it where there is none. It is not kept by that.
pub fn obtain(context: &Context<'_>, definition: &Definition, resolving: Resolving) -> Result<Lock, Error> {
    if let Some(lock) = existing(context.view(), definition)? {
        return Ok(lock);
    }
    let tool = definition.tool().to_owned();
    match (resolving, &definition.lock_file) {
        (Resolving::Frozen, Some(path)) => Err(Error::FrozenProject { tool, path: path.clone() }),
        (Resolving::Frozen, None) => Err(Error::Frozen { tool }),
        // A tool that is as its recipe says is made of the packages that the recipe is tried with.
        (Resolving::Allowed, Some(_)) => match of_recipe(context.view(), &definition.found)? {
            Some(lock) => Ok(lock),
            None => resolve(context, definition),
        },
        (Resolving::Allowed, None) => resolve(context, definition),
    }
}

/// Returns the lock that a tool has, if it is for what the tool is made of.
pub fn existing(view: View<'_>, definition: &Definition) -> Result<Option<Lock>, Error> {
    let Some(path) = &definition.lock_file else { return of_recipe(view, &definition.found) };
    let asked = Asked::by(&definition.found.recipe);
    let mut locks = if *path == view.project.join(PROJECT_LOCK) { of_project(view)? } else { read(path)? };
    Ok(locks.remove(definition.tool()).filter(|lock| lock.asked == asked))
}

/// Returns the lock that a recipe has, if it is for what the recipe asks for.
fn of_recipe(view: View<'_>, found: &Found) -> Result<Option<Lock>, Error> {
    let asked = Asked::by(&found.recipe);
    let tool = &found.recipe.name;
    let path = path(view, found);
    let text = match &view.places.project {
        Some(recipes) if found.origin == Origin::Project => recipes.text(&format!("{tool}.lock"))?.map(str::to_owned),
        _ => document::text_of(&path)?,
    };
    let mut locks = text.map_or_else(|| Ok(BTreeMap::new()), |text| lock::parse(&text, &path))?;
    if let Some(lock) = locks.remove(tool).filter(|lock| lock.asked == asked) {
        return Ok(Some(lock));
    }
    let Some(builtin) = catalog::built_in(tool).filter(|builtin| !builtin.lock.is_empty()) else { return Ok(None) };
    let mut locks = lock::parse(builtin.lock, &PathBuf::from(format!("recipes/{}.lock", builtin.name)))?;
    Ok(locks.remove(tool).filter(|lock| lock.asked == asked))
}

/// Locks that are to be kept, file by file, together and last of all.
#[derive(Debug, Default)]
pub struct Staged {
    files: BTreeMap<PathBuf, (Option<String>, BTreeMap<String, Lock>)>,
}

impl Staged {
    /// Puts a tool's lock where it belongs, beside the others in the same file; says whether anything changes.
    pub fn put(&mut self, view: View<'_>, definition: &Definition, lock: &Lock) -> Result<bool, Error> {
        // What ships needs no copy, which would come before the lock of a later silo.
        if definition.lock_file.is_none() && of_recipe(view, &definition.found).ok().flatten().as_ref() == Some(lock) {
            return Ok(false);
        }
        let path = definition.lock_file.clone().unwrap_or_else(|| path(view, &definition.found));
        if !self.files.contains_key(&path) {
            let before = document::text_of(&path)?;
            let locks = match before.as_ref().map(|text| lock::parse(text, &path)) {
                None => BTreeMap::new(),
                Some(Ok(locks)) => locks,
                // What cannot be read because it is of another version is made anew.
                Some(Err(document::Error::Meaning { .. })) => BTreeMap::new(),
                Some(Err(error)) => return Err(error.into()),
            };
            self.files.insert(path.clone(), (before, locks));
        }
        let (_, locks) = self.files.get_mut(&path).expect("it was put there");
        if locks.get(definition.tool()) == Some(lock) {
            return Ok(false);
        }
        locks.insert(definition.tool().to_owned(), lock.clone());
        Ok(true)
    }

    /// The changes of files that this comes to.
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

/// Writes a tool's lock where it belongs; says whether anything changed.
pub fn keep(view: View<'_>, definition: &Definition, lock: &Lock) -> Result<bool, Error> {
    let mut staged = Staged::default();
    let is_new = staged.put(view, definition, lock)?;
    trust::commit(view.home, view.project, &staged.changes(view.home)?)?;
    Ok(is_new)
}

/// Makes a tool's lock from today's indexes, which may not be older than those of its last lock.
pub fn resolve(context: &Context<'_>, definition: &Definition) -> Result<Lock, Error> {
    let (found, tool) = (&definition.found, definition.tool());
    let failed = |source| Error::Relock { tool: tool.to_owned(), source: Box::new(source) };
    let lock = relock::relock(context, &found.recipe).map_err(failed)?;
    let files = [Some(path(context.view(), found)), definition.lock_file.clone()];
    for before in files.into_iter().flatten().filter_map(|file| last(&file, tool)) {
        relock::check_age(context, &lock, &before).map_err(failed)?;
    }
    Ok(lock)
}

/// The last lock of a tool in a file. A file that cannot be read is replaced anyway.
fn last(path: &Path, tool: &str) -> Option<Lock> {
    read(path).ok()?.remove(tool)
}

/// Returns where a recipe's lock is kept.
pub fn path(view: View<'_>, found: &Found) -> PathBuf {
    let dir = match found.origin {
        Origin::BuiltIn => None,
        Origin::User => view.places.user.clone(),
        Origin::Project => view.places.project.as_ref().map(|recipes| recipes.dir().to_owned()),
    };
    dir.unwrap_or_else(|| view.home.locks()).join(format!("{}.lock", found.recipe.name))
}

/// Works out the change that takes a tool out of a lock file; there is none where it is not in it.
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

/// Reads the locks of the project: as its files were judged, or from disk where a verb changes them.
pub fn of_project(view: View<'_>) -> Result<BTreeMap<String, Lock>, Error> {
    let path = view.project.join(PROJECT_LOCK);
    match view.files.map(|files| files.text(PROJECT_LOCK)).transpose()? {
        None => read(&path),
        Some(None) => Ok(BTreeMap::new()),
        Some(Some(text)) => Ok(lock::parse(text, &path)?),
    }
}

/// Reads a lock file; one that is not there has no locks.
pub fn read(path: &Path) -> Result<BTreeMap<String, Lock>, Error> {
    match document::text_of(path)? {
        Some(text) => Ok(lock::parse(&text, path)?),
        None => Ok(BTreeMap::new()),
    }
}

/// Writes a lock file that the user has named.
pub fn write(home: &Home, path: &Path, locks: &BTreeMap<String, Lock>) -> Result<(), Error> {
    let before = document::text_of(path)?;
    Ok(journal::commit(home, &[Change::new(home, path, before, Some(lock::write(locks)))?])?)
}

/// Returns a tool's version: its recipe's, or the upstream part of that of its main package in a lock.
pub fn version(found: &Found, lock: &Lock) -> String {
    if let Some(version) = &found.recipe.version {
        return version.clone();
    }
    let packages = lock.packages.get(&Arch::host());
    let package: Option<&Package> = packages.and_then(|packages| packages.get(&found.recipe.debian.version_of));
    package.map_or_else(|| "unknown".to_owned(), |package| upstream(&package.version))
}

/// Takes epoch and revision off a Debian version, and what marks a repackaged source.
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
