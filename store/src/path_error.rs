//! An I/O error with the attempted operation and its path.

use std::io;
use std::path::{Path, PathBuf};

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct PathError {
    /// The attempted operation, as a verb: "open", "write".
    pub doing: &'static str,
    /// The path of the operation.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// Returns a function that adds `doing` and `path` to an error, for `map_err`.
pub fn at<'a, E: Into<io::Error>>(doing: &'static str, path: &'a Path) -> impl FnOnce(E) -> PathError + 'a {
    move |source| PathError { doing, path: path.to_path_buf(), source: source.into() }
}

/// Turns "not found" into `None`.
pub(crate) fn if_present<T>(result: Result<T, PathError>) -> Result<Option<T>, PathError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
