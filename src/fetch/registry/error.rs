//! Errors of reading an image, with hints.

use std::io::ErrorKind;
use std::path::PathBuf;

use silo_store::digest::Digest;

use silo_base::sanitize::brief;

use crate::error::Error as FetchError;

/// Errors of reading an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry did not answer, or only with a transient error.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The registry answered with an error status.
    #[error("{url}: the registry answered {status}{}", said(.text))]
    Status {
        /// The requested address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The error message of the registry.
        text: String,
    },
    /// Authentication failed: silo has no login, or the challenge is not safe to answer.
    #[error("{url}: the registry wants {challenge:?} first: {why}")]
    Challenge {
        /// The requested address.
        url: String,
        /// The challenge.
        challenge: String,
        /// The reason not to answer it.
        why: &'static str,
    },
    /// A server that the registry redirected to asks for a login.
    #[error("{url}: the registry redirects to {origin}, which wants a login; silo sends logins to the registry only")]
    Elsewhere {
        /// The requested address.
        url: String,
        /// The scheme, host and port of the other server.
        origin: String,
    },
    /// The digest of a document or file does not match.
    #[error("{url}: its sha-256 is {got}, not {expected}")]
    Digest {
        /// The requested address.
        url: String,
        /// The expected digest.
        expected: Digest,
        /// The actual digest.
        got: Digest,
    },
    /// A document is malformed.
    #[error("{url}: {}", brief(.what))]
    Document {
        /// The requested address.
        url: String,
        /// The error in it, which may quote it. A message shows the start.
        what: String,
    },
    /// A part of an image is missing.
    #[error("{place}: it has no {name}")]
    Absent {
        /// The archive.
        place: String,
        /// The part.
        name: String,
    },
    /// A file of a layout cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of a layout cannot be written.
    #[error("cannot write {path}", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl Error {
    /// Whether the source has no such image: it is missing, or it is not an image. False for a network or file error.
    pub(super) fn is_no_image(&self) -> bool {
        match self {
            Error::Status { status, .. } => *status == 404,
            Error::Read { source, .. } => source.kind() == ErrorKind::NotFound,
            Error::Absent { .. } | Error::Document { .. } => true,
            Error::Fetch(_) | Error::Challenge { .. } | Error::Elsewhere { .. } | Error::Digest { .. } | Error::Write { .. } => false,
        }
    }

    /// Returns a hint for the user, if there is one.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Fetch(FetchError::Status { status: 429, .. }) => {
                "the registry limits how often it may be asked: wait, or log in with podman or docker"
            }
            Error::Fetch(error) => return error.hint(),
            Error::Elsewhere { .. } => "is the name right? if so, the registry or something on the way to it is misconfigured",
            Error::Status { status: 401 | 403, .. } | Error::Challenge { .. } => {
                "log in with `podman login` or `docker login`: silo reads ~/.config/containers/auth.json and ~/.docker/config.json"
            }
            Error::Status { status: 404, .. } => "is the name right, and the tag?",
            Error::Status { .. } => "the registry may be in trouble; try again later",
            Error::Digest { .. } => "a proxy on the way to the registry changes its answers, or the registry is broken",
            Error::Read { source, .. } if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
                "is the path right? it must be a file or directory of this machine that you may read"
            }
            Error::Read { .. } | Error::Write { .. } | Error::Document { .. } | Error::Absent { .. } => return None,
        };
        Some(text.to_owned())
    }
}
