//! Errors of a run before its program starts.

use std::path::PathBuf;

use silo_store::path_error::PathError;

use crate::git::{named, repository};
use crate::guard;
use crate::launch::opened;
use crate::tool::{definition, kept, projects, record, trust};
use crate::{document, ecosystem, image, launch, recipe};

/// Why a run could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the settings say something impossible.
    #[error("{what}")]
    Usage {
        /// What.
        what: String,
        /// What to type instead.
        hint: String,
    },
    /// Something that a run needs is not there.
    #[error("{what}")]
    Missing {
        /// What.
        what: String,
        /// What to type first.
        hint: String,
    },
    /// No such tool, and no recipe for one.
    #[error(transparent)]
    Recipe(#[from] recipe::catalog::Error),
    /// A file of Silo's own, such as the table of shims, cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// It cannot be found out what the tool is here.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The record of installed tools cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// Approvals cannot be read.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// What is kept for the project cannot be had.
    #[error(transparent)]
    Kept(#[from] kept::Error),
    /// The record of the project cannot be read or written.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// A lock of the store cannot be had.
    #[error(transparent)]
    Store(#[from] PathError),
    /// The image of a tool cannot be read.
    #[error("{tool}: its image cannot be used")]
    Image {
        /// The tool.
        tool: String,
        /// Why.
        source: image::Error,
    },
    /// The image of a tool cannot be booted.
    #[error("{tool}: no machine can be made of its image")]
    Boot {
        /// The tool.
        tool: String,
        /// Why.
        source: image::Error,
    },
    /// A file or directory cannot be opened.
    #[error(transparent)]
    Opened(#[from] opened::Error),
    /// What was reached cannot be read back.
    #[error(transparent)]
    Ecosystem(#[from] ecosystem::Error),
    /// What of the project the host obeys cannot be found out.
    #[error(transparent)]
    Guard(#[from] guard::Error),
    /// What git obeys cannot be found out.
    #[error(transparent)]
    Named(#[from] named::Error),
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// Machines cannot be made here.
    #[error(transparent)]
    Launch(#[from] launch::error::Error),
    /// A temporary file cannot be made.
    #[error("cannot make a temporary file")]
    Temporary(#[source] std::io::Error),
    /// A directory that is not shown to a tool unless the user confirms it.
    #[error("{dir} is not shown to a tool: {why}", dir = .dir.display())]
    Private {
        /// The directory.
        dir: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// A directory that cannot be found.
    #[error("{path}: {source}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Error {
    pub(super) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Usage { what: what.into(), hint: hint.into() }
    }

    pub(super) fn missing(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Missing { what: what.into(), hint: hint.into() }
    }

    /// Returns what to type next, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } | Error::Missing { hint, .. } => Some(hint.clone()),
            Error::Recipe(_) => Some("`silo list --available` shows the tools, `silo --help` the commands".to_owned()),
            Error::Image { tool, .. } => Some(format!("silo install {tool}")),
            Error::Boot { tool, .. } => Some(format!("silo uninstall {tool}, then silo install {tool}")),
            Error::Private { .. } => {
                let instead = "--no-project shows nothing, --expose shows it for once, `silo trust --expose` from now on";
                Some(format!("work in a project's own directory; or {instead}"))
            }
            Error::Guard(guard::Error::TooMany { most }) | Error::Named(named::Error::TooMany { most }) => {
                Some(format!("raise mount.maxGuarded above {most} in ~/.silo/silo.toml, or hide directories with mount.exclude"))
            }
            Error::Named(named::Error::Config { .. }) => Some("`git config --list --show-origin` says what git reads".to_owned()),
            Error::Directory { .. } => Some("name a directory that exists".to_owned()),
            _ => None,
        }
    }
}
