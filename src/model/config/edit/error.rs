//! Error of an edit.

/// Reason why a document cannot be edited.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A key has a value of another type.
    #[error("{key} is not {kind}")]
    Kind {
        /// The key.
        key: String,
        /// Expected type.
        kind: &'static str,
    },
}
