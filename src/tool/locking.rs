//! Which lock a recipe is built from, and where a new one is kept.
//!
//! A built-in recipe ships its lock. A recipe of the user's or the project's has its lock beside it
//! (`recipes/<tool>.lock`). A lock that `silo lock` made on this machine for a built-in recipe is kept in
//! the home and comes before the one that ships.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::document;
use crate::lock::{self, Asked, Lock};
use crate::recipe::catalog::{self, Found, Origin};

use super::Context;
use super::relock;

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
    /// A new lock could not be made.
    #[error("cannot lock {tool}")]
    Relock {
        /// The tool.
        tool: String,
        /// Why not.
        #[source]
        source: Box<relock::Error>,
    },
    /// The new lock could not be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Whether a lock may be made where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolving {
    /// It may.
    Allowed,
    /// It may not: `--frozen`.
    Frozen,
}

/// Returns the lock to build a recipe from, making it where there is none.
pub fn obtain(context: &Context<'_>, found: &Found, resolving: Resolving) -> Result<Lock, Error> {
    if let Some(lock) = existing(context, found)? {
        return Ok(lock);
    }
    if resolving == Resolving::Frozen {
        return Err(Error::Frozen { tool: found.recipe.name.clone() });
    }
    make(context, found)
}

/// Returns the lock that a recipe has, if it is for what the recipe asks for.
pub fn existing(context: &Context<'_>, found: &Found) -> Result<Option<Lock>, Error> {
    let asked = Asked::by(&found.recipe.debian);
    let path = path(context, found);
    let tool = &found.recipe.name;
    if let Some(lock) = read(&path)?.remove(tool).filter(|lock| lock.asked == asked) {
        return Ok(Some(lock));
    }
    if let Some(builtin) = catalog::built_in(&found.recipe.name)
        && !builtin.lock.is_empty()
    {
        let mut locks = lock::parse(builtin.lock, &PathBuf::from(format!("recipes/{}.lock", builtin.name)))?;
        return Ok(locks.remove(tool).filter(|lock| lock.asked == asked));
    }
    Ok(None)
}

/// Makes a recipe's lock from today's indexes and keeps it.
pub fn make(context: &Context<'_>, found: &Found) -> Result<Lock, Error> {
    let lock = resolve(context, found)?;
    let locks = BTreeMap::from([(found.recipe.name.clone(), lock.clone())]);
    write(&path(context, found), &locks)?;
    Ok(lock)
}

/// Makes a recipe's lock from today's indexes.
pub fn resolve(context: &Context<'_>, found: &Found) -> Result<Lock, Error> {
    relock::relock(context, &found.recipe).map_err(|source| Error::Relock { tool: found.recipe.name.clone(), source: Box::new(source) })
}

/// Returns where a recipe's lock is kept.
pub fn path(context: &Context<'_>, found: &Found) -> PathBuf {
    let dir = match found.origin {
        Origin::BuiltIn => None,
        Origin::User => context.places.user.clone(),
        Origin::Project => context.places.project.clone(),
    };
    dir.unwrap_or_else(|| context.home.locks()).join(format!("{}.lock", found.recipe.name))
}

/// Reads a lock file; one that is not there has no locks.
pub fn read(path: &Path) -> Result<BTreeMap<String, Lock>, Error> {
    match document::text_of(path)? {
        Some(text) => Ok(lock::parse(&text, path)?),
        None => Ok(BTreeMap::new()),
    }
}

/// Writes a lock file by one rename.
pub fn write(path: &Path, locks: &BTreeMap<String, Lock>) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let staged = path.with_extension(format!("lock.{}", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&staged)?;
        file.write_all(lock::write(locks).as_bytes())?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().map_err(failed)
}
