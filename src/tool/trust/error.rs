//! Error of the approvals.

use silo_store::path_error::PathError;

use silo_model::document;

/// Error of reading or writing approvals.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record is invalid.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
}
