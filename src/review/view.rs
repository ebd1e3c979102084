//! An open review: the project, the layer and the marks, as every command reads them.

use std::path::Path;

use silo_guard::git::dir_fd::Dir;
use silo_guard::git::{layer, leftover_layers};

use crate::base::Base;
use crate::changes::{self, Change};
use crate::conflict;
use crate::error::{Error, at};
use crate::session::Session;

/// An open review.
#[derive(Debug)]
pub struct View {
    /// The review.
    pub session: Session,
    /// The project.
    pub project: Dir,
    /// The upper directory of the layer.
    pub upper: Dir,
    /// Marks of the project's files.
    pub base: Option<Base>,
    /// State of the repository's layer.
    pub repository: Repository,
}

/// State of the repository's layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repository {
    /// There is no layer.
    None,
    /// The layer has no changes.
    Same,
    /// Only the index has changes, as after `git status`.
    Index,
    /// The layer has other changes to import, such as commits.
    Changed,
}

impl Repository {
    /// True if the layer has something to import.
    pub fn has_changes(self) -> bool {
        matches!(self, Repository::Index | Repository::Changed)
    }
}

impl View {
    /// Opens a review.
    pub fn open(session: Session) -> Result<View, Error> {
        let path = session.project();
        let project = Dir::open(&path).map_err(at("open", &path))?;
        let upper = session.open_upper()?;
        let base = session.base()?;
        let repository = repository(&session.git());
        Ok(View { session, project, upper, base, repository })
    }

    /// Lists the changes of files.
    pub fn changes(&self) -> Result<Vec<Change>, Error> {
        changes::list(&changes::Given {
            project: &self.project,
            upper: &self.upper,
            base: self.base.as_ref(),
            has_git_layer: self.repository != Repository::None,
        })
    }

    /// Returns the reason why a change conflicts with a change here.
    pub fn conflict(&self, change: &Change) -> Option<String> {
        let since = self.session.moments().review;
        conflict::find(&conflict::Given { project: &self.project, upper: &self.upper, base: self.base.as_ref(), since }, change)
    }
}

/// True if a review has no changes. It looks at the top directories of the layers alone.
pub fn is_unchanged(session: &Session) -> Result<bool, Error> {
    let upper = session.open_upper()?;
    let is_empty = upper.list(1).is_ok_and(|names| names.is_empty());
    Ok(is_empty && !upper.is_opaque() && !repository(&session.git()).has_changes())
}

/// Looks at the layers without locking them.
pub(crate) fn repository(layers: &Path) -> Repository {
    let dirs = std::fs::read_dir(layers).into_iter().flatten().flatten().map(|entry| entry.path());
    let state = |dir: std::path::PathBuf| match Dir::open(&layer::upper(&dir)).and_then(|upper| upper.list(1)) {
        Ok(names) if names.is_empty() => Repository::Same,
        Ok(names) if names == ["index"] => Repository::Index,
        _ => Repository::Changed,
    };
    dirs.map(state).max().unwrap_or(Repository::None)
}

/// Imports the changes of the repository's layer, and removes the layer. Returns messages about everything that was not imported unchanged.
pub fn import(session: &Session) -> Vec<String> {
    let mut lines = Vec::new();
    for layer in leftover_layers::of_project(&session.git(), &session.project()) {
        let finished = layer.finish();
        lines.extend(finished.told);
        lines.extend(finished.left.map(|left| format!("the rest of it is in {}", silo_base::sanitize::path(&left))));
    }
    lines
}
