//! Changing a `silo.toml` on disk: the whole file or nothing, and back again where what follows fails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::edit::{self, Document};
use crate::document;
use crate::home::{LEGACY_CONFIG, LEGACY_USER_CONFIG};

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
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A changed file of settings.
#[derive(Debug)]
pub struct Changed {
    path: PathBuf,
    before: Option<String>,
    after: String,
}

/// Changes the settings at `path`, which may not be there yet; nothing is written where nothing changes.
pub fn change<T>(path: &Path, change: impl FnOnce(&mut Document) -> Result<T, edit::Error>) -> Result<(T, Changed), Error> {
    let before = document::text_of(path)?;
    let old = [LEGACY_CONFIG, LEGACY_USER_CONFIG].map(|name| path.with_file_name(name)).into_iter().find(|old| old.is_file());
    if let (None, Some(path)) = (&before, old) {
        return Err(Error::Legacy { path });
    }
    let failed = |source| Error::Edit { path: path.to_owned(), source };
    let mut document = Document::parse(before.as_deref().unwrap_or_default()).map_err(failed)?;
    let done = change(&mut document).map_err(failed)?;
    let after = document.text();
    if before.as_deref().unwrap_or_default() != after {
        write(path, &after)?;
    }
    Ok((done, Changed { path: path.to_owned(), before, after }))
}

impl Changed {
    /// Says whether anything changed.
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

    /// Takes the change back, unless somebody else has changed the file since.
    pub fn undo(self) -> Result<(), Error> {
        if !self.is_new() || document::text_of(&self.path)?.as_deref() != Some(self.after.as_str()) {
            return Ok(());
        }
        match &self.before {
            Some(before) => write(&self.path, before),
            None => fs::remove_file(&self.path).map_err(|source| Error::Write { path: self.path.clone(), source }),
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    document::write(path, text).map_err(|source| Error::Write { path: path.to_owned(), source })
}
