//! Errors of remote builds.

use std::path::PathBuf;

use silo_store::digest::Digest;

/// Error of a request to a server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or its options are malformed.
    #[error("{url}: {what}")]
    Address {
        /// The address.
        url: String,
        /// The fault.
        what: String,
    },
    /// A request failed.
    #[error("{url}: {call} failed: {text}")]
    Call {
        /// The server.
        url: String,
        /// The request.
        call: &'static str,
        /// The status of the answer.
        code: tonic::Code,
        /// The status as text, with the server's message.
        text: String,
    },
    /// The server's answer breaks the protocol.
    #[error("{url}: {what}")]
    Answer {
        /// The server.
        url: String,
        /// The fault.
        what: String,
    },
    /// A blob's bytes are not those of its digest.
    #[error("{url} sends other bytes than those of the blob {blob}")]
    Blob {
        /// The server.
        url: String,
        /// The expected digest.
        blob: Digest,
    },
    /// No worker took the action in time.
    #[error("{url}: no worker took the step within {seconds} s")]
    Queue {
        /// The server.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// The action ran longer than its limit.
    #[error("{url}: the step ran longer than {seconds} s")]
    Timeout {
        /// The server.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// The server refuses the time limit of a step.
    #[error("{url} refuses the time limit of a step, {seconds} s ({text}); timeSeconds in [remote.NAME] sets a smaller one")]
    Limit {
        /// The server.
        url: String,
        /// The limit.
        seconds: u64,
        /// The server's message.
        text: String,
    },
    /// A machine over ssh cannot be used.
    #[error("{host}: {what}")]
    Host {
        /// The machine.
        host: String,
        /// The fault.
        what: String,
    },
    /// A local file operation failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The system refuses a thread or a runtime.
    #[error("cannot start the connection to {url}")]
    Runtime {
        /// The server.
        url: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The user stopped the build.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// True if the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
        matches!(
            self,
            Error::Call { code: Unavailable | Aborted | Cancelled | DeadlineExceeded | Internal | ResourceExhausted | Unknown, .. }
        )
    }

    /// True if the server does not know the object of the request.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Error::Call { code: tonic::Code::NotFound, .. })
    }
}
