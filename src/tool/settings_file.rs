//! Changes a `silo.toml` in two steps: prepares the new text, so that the caller can try it, and writes it at the end.

use std::fs;
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;

use crate::journal::{self, Change};
use silo_base::home::{Home, LEGACY_CONFIG, LEGACY_USER_CONFIG};
use silo_model::config::edit::{self, Document};
use silo_model::config::read;
use silo_model::document;

/// Error of changing a settings file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The change is not possible.
    #[error("{path}", path = .path.display())]
    Edit {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: edit::Error,
    },
    /// It has the old format, which is only read.
    #[error("{path} is in the older form", path = .path.display())]
    Legacy {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] PathError),
}

/// A changed settings file that is not written yet.
#[derive(Clone, Debug)]
pub struct Changed {
    path: PathBuf,
    before: Option<String>,
    after: String,
}

/// Prepares a change of the settings at `path`, which may not exist. Writes nothing.
pub fn prepare<T>(home: &Home, path: &Path, change: impl FnOnce(&mut Document) -> Result<T, edit::Error>) -> Result<(T, Changed), Error> {
    let before = document::text_of(path)?;
    let old = [LEGACY_CONFIG, LEGACY_USER_CONFIG].map(|name| path.with_file_name(name)).into_iter().find(|old| old.is_file());
    if let (None, Some(path)) = (&before, old) {
        return Err(Error::Legacy { path });
    }
    check_link(home, path, before.as_deref())?;
    let failed = |source| Error::Edit { path: path.to_owned(), source };
    let mut document = Document::parse(before.as_deref().unwrap_or_default()).map_err(failed)?;
    let done = change(&mut document).map_err(failed)?;
    let after = document.text();
    Ok((done, Changed { path: path.to_owned(), before, after }))
}

/// Changes the settings at `path`; writes nothing if nothing changes.
pub fn change<T>(home: &Home, path: &Path, change: impl FnOnce(&mut Document) -> Result<T, edit::Error>) -> Result<(T, Changed), Error> {
    let (done, changed) = prepare(home, path, change)?;
    changed.commit(home)?;
    Ok((done, changed))
}

/// A project's settings may be a symlink to a file elsewhere. The target is changed only if it contains settings already, because a
/// sandboxed program may have made the symlink.
fn check_link(home: &Home, path: &Path, before: Option<&str>) -> Result<(), Error> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if !is_link || path == home.config() {
        return Ok(());
    }
    let real = journal::real(home, path)?;
    match before {
        Some(text) => Ok(read::parse(text, &real).map(drop)?),
        None => Ok(()),
    }
}

impl Changed {
    /// Returns true if anything changes.
    pub fn is_new(&self) -> bool {
        self.before.as_deref().unwrap_or_default() != self.after
    }

    /// Returns the text before and after.
    pub fn texts(&self) -> (&str, &str) {
        (self.before.as_deref().unwrap_or_default(), &self.after)
    }

    /// Returns the path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the change for the journal.
    pub fn change(&self, home: &Home) -> Result<Change, Error> {
        let after = if self.is_new() { Some(self.after.clone()) } else { self.before.clone() };
        Ok(Change::new(home, &self.path, self.before.clone(), after)?)
    }

    /// Writes the change.
    pub fn commit(&self, home: &Home) -> Result<(), Error> {
        Ok(journal::commit(home, &[self.change(home)?])?)
    }
}
