//! Which of a project's files count: what they open is approved line by line, and what a sandbox may have written is
//! approved by its content.
//!
//! Before a sandbox starts that can write a project, the digests of its `silo.toml`, `silo.lock` and recipes are recorded
//! in the home, and a mark says that it runs. Files with other digests count for nothing until they are approved, if
//!
//! * a sandbox can write the directory, or one above it, or
//! * its silo was killed, or
//! * the files were different when the sandbox ended.
//!
//! Where no sandbox could write the directory since the files were compared, a change is the user's own.

pub mod record;
pub mod runs;

pub mod exposure;

pub mod words;

mod approved;
mod verdict;

mod run;
mod written;

pub mod worktree;

#[cfg(test)]
mod tests;

use std::path::Path;

use silo_store::path_error::PathError;

use crate::document;
use crate::home::Home;

use record::Place;

pub use approved::{Revoked, approve, approved, revoke};
pub use run::{RunRecord, begin_run, came_inside, remember};
pub use verdict::{Verdict, approve_files, changes, judge, lost_between};
pub use written::{approve_change, commit, wrote};

/// Why approvals could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record is not as it was written.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The system refused.
    #[error(transparent)]
    File(#[from] PathError),
}

fn place(home: &Home, dir: &Path) -> Result<Place, Error> {
    Ok(Place::of(home, dir).map_err(|source| PathError { doing: "look at", path: dir.to_owned(), source })?)
}
