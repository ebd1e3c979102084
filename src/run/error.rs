//! Errors of a run before its program starts.

use std::path::PathBuf;

use silo_store::path_error::PathError;

use silo_build::image;
use silo_guard::git::{config_paths, repository};
use silo_launch::open_checked;
use silo_model::document;
use silo_model::ecosystem;
use silo_model::recipe;
use silo_tool::{definition, kept_dirs, projects, record, trust};

/// Reason why a run could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the settings are invalid.
    #[error("{what}")]
    Usage {
        /// Message.
        what: String,
        /// Suggested command.
        hint: String,
    },
    /// A tool, image or file that the run needs is missing.
    #[error("{what}")]
    Missing {
        /// Message.
        what: String,
        /// Suggested command.
        hint: String,
    },
    /// Unknown tool, or an invalid recipe.
    #[error(transparent)]
    Recipe(#[from] recipe::catalog::Error),
    /// A file of Silo's own, such as the table of shims, cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The tool's definition cannot be determined.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The record of installed tools cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// Approvals cannot be read.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// A persistent directory of the project cannot be used.
    #[error(transparent)]
    Kept(#[from] kept_dirs::Error),
    /// The record of the project cannot be read or written.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// A lock of the store cannot be taken.
    #[error(transparent)]
    Store(#[from] PathError),
    /// The image of a tool cannot be read.
    #[error("{tool}: its image cannot be used")]
    Image {
        /// The tool.
        tool: String,
        /// Cause.
        source: image::Error,
    },
    /// A key of a sandbox cannot be made.
    #[error("cannot make /{path}, a key that each sandbox has for itself")]
    Key {
        /// Its path.
        path: &'static str,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system has no random numbers.
    #[error("cannot make the keys of this sandbox: the system gives no random numbers")]
    Random,
    /// The image of a tool cannot be booted.
    #[error("{tool}: its image cannot be booted in a virtual machine")]
    Boot {
        /// The tool.
        tool: String,
        /// Cause.
        source: image::Error,
    },
    /// A file or directory cannot be opened.
    #[error(transparent)]
    Opened(#[from] open_checked::Error),
    /// The record of reached hosts cannot be read.
    #[error(transparent)]
    Ecosystem(#[from] ecosystem::Error),
    /// The files of the project that host programs act on cannot be listed.
    #[error(transparent)]
    Guard(#[from] silo_guard::Error),
    /// Git's configuration cannot be read.
    #[error(transparent)]
    Named(#[from] config_paths::Error),
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The layer of a review cannot be used.
    #[error(transparent)]
    Review(#[from] silo_review::Error),
    /// VMs cannot be started here.
    #[error(transparent)]
    Launch(#[from] silo_launch::error::Error),
    /// A temporary file cannot be made.
    #[error("cannot make a temporary file")]
    Temporary(#[source] std::io::Error),
    /// Placeholders or certificates of secrets cannot be made.
    #[error("cannot prepare the secrets of this run: {0}")]
    Secret(String),
    /// A private directory, which needs the user's confirmation.
    #[error("{dir} is not shown to a tool: {why}", dir = .dir.display())]
    Private {
        /// The directory.
        dir: PathBuf,
        /// Reason.
        why: &'static str,
    },
    /// A directory that does not exist or cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Error of the system.
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

    /// Returns the suggested command, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } | Error::Missing { hint, .. } => Some(hint.clone()),
            Error::Recipe(_) => Some("`silo list --available` shows the tools, `silo --help` the commands".to_owned()),
            Error::Image { tool, .. } => Some(format!("silo install {tool}")),
            Error::Boot { tool, .. } => Some(format!("silo uninstall {tool}, then silo install {tool}")),
            Error::Private { .. } => {
                let instead = "--no-project shows nothing, --expose shows it once, `silo trust --expose` from now on";
                Some(format!("work in a project's own directory; or {instead}"))
            }
            Error::Guard(silo_guard::Error::TooMany { most }) | Error::Named(config_paths::Error::TooMany { most }) => {
                Some(format!("raise mount.maxGuarded above {most} in ~/.silo/silo.toml, or hide directories with mount.exclude"))
            }
            Error::Named(config_paths::Error::Config { .. }) => {
                Some("`git config --list --show-origin` lists the files that git reads".to_owned())
            }
            Error::Review(silo_review::Error::Busy { .. }) => {
                Some("wait for its end; or `silo run --review=never` changes the project directly".to_owned())
            }
            Error::Directory { .. } => Some("name a directory that exists".to_owned()),
            _ => None,
        }
    }
}
