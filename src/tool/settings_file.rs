//! Changing a `silo.toml`: worked out first, tried by whoever wants to, and written last.

use std::fs;
use std::path::{Path, PathBuf};

use silo_store::path_error::PathError;

use crate::config::edit::{self, Document};
use crate::config::read;
use crate::document;
use crate::home::{Home, LEGACY_CONFIG, LEGACY_USER_CONFIG};
use crate::journal::{self, Change};

/// Why a file of settings could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// It does not allow the change.
    #[error("{path}", path = .path.display())]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: edit::Error,
    },
    /// It is written in the older form, which is read and not changed.
    #[error("{path} is in the older form", path = .path.display())]
    Legacy {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] PathError),
}

/// A changed file of settings, which is not written yet.
#[derive(Clone, Debug)]
pub struct Changed {
    path: PathBuf,
    before: Option<String>,
    after: String,
}

/// Works out a change of the settings at `path`, which may not be there yet. Nothing is written.
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

/// Changes the settings at `path`; nothing is written where nothing changes.
pub fn change<T>(home: &Home, path: &Path, change: impl FnOnce(&mut Document) -> Result<T, edit::Error>) -> Result<(T, Changed), Error> {
    let (done, changed) = prepare(home, path, change)?;
    changed.commit(home)?;
    Ok((done, changed))
}

/// A project's settings may be a link to where somebody keeps such files. What a link leads to is changed only if it is
/// settings already: a program may have made the link.
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
    /// Says whether anything changes.
    pub fn is_new(&self) -> bool {
        self.before.as_deref().unwrap_or_default() != self.after
    }

    /// The text before and after.
    pub fn texts(&self) -> (&str, &str) {
        (self.before.as_deref().unwrap_or_default(), &self.after)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The change as one of the journal's.
    pub fn change(&self, home: &Home) -> Result<Change, Error> {
        let after = if self.is_new() { Some(self.after.clone()) } else { self.before.clone() };
        Ok(Change::new(home, &self.path, self.before.clone(), after)?)
    }

    /// Makes the change.
    pub fn commit(&self, home: &Home) -> Result<(), Error> {
        Ok(journal::commit(home, &[self.change(home)?])?)
    }
}
