//! Errors of a review.

use std::io;
use std::path::PathBuf;

use silo_store::path_error::PathError;

/// Reason why a review cannot be made, read or decided.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// Attempted operation.
        doing: &'static str,
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file of Silo's own cannot be used.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The layer has more entries than a review reads.
    #[error("the changes have more than {most} entries")]
    TooMany {
        /// Limit.
        most: usize,
    },
    /// The paths of the layer need more memory than a review takes.
    #[error("the paths of the changes are too long together")]
    TooLong,
    /// The directories of the layer need more time than a review takes.
    #[error("the changes have too many directories inside each other")]
    TooDeep,
    /// Changes that cannot be applied.
    #[error("nothing was applied, because these cannot be:\n  {}", .lines.join("\n  "))]
    Conflicts {
        /// One line for each change.
        lines: Vec<String>,
    },
    /// There is nothing to undo.
    #[error("there are no applied changes to undo")]
    NoDecision,
    /// The review is in use.
    #[error("a tool is running in review mode in {project}, or another command decides its changes", project = .project.display())]
    Busy {
        /// Project.
        project: PathBuf,
    },
    /// The record of the review belongs to another version of Silo, or is damaged.
    #[error("{path} is not a record that this silo can read: {reason}", path = .path.display())]
    Record {
        /// Record.
        path: PathBuf,
        /// Reason.
        reason: String,
    },
}

/// Adds the operation and the path to an I/O error.
pub(crate) fn at(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { doing, path, source }
}
