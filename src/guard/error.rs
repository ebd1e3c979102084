//! Error of a scan for guarded files.

use std::path::PathBuf;

/// Error of a scan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project has too many such files.
    #[error("programs of this machine act on more than {most} files and directories of the project, and each needs a guard")]
    TooMany {
        /// Limit.
        most: usize,
    },
    /// The project cannot be read.
    #[error("cannot scan {path}", path = .path.display())]
    Project {
        /// Project directory.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}
