//! An io error that names what was being done to which path.

use std::io;
use std::path::{Path, PathBuf};

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct PathError {
    /// What was tried, as a verb: "open", "write".
    pub doing: &'static str,
    /// What it was tried on.
    pub path: PathBuf,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

/// Returns a function that puts `doing` and `path` around an error, for `map_err`.
pub(crate) fn at<'a, E: Into<io::Error>>(doing: &'static str, path: &'a Path) -> impl FnOnce(E) -> PathError + 'a {
    move |source| PathError { doing, path: path.to_path_buf(), source: source.into() }
}

/// Turns "there is no such file" into `None`.
pub(crate) fn if_present<T>(result: Result<T, PathError>) -> Result<Option<T>, PathError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
