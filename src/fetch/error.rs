//! What can go wrong between a list of addresses and a verified file, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A fetch that did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered, but not with the file.
    #[error("{url}: the server answered {status}{}", meaning(*status))]
    Status {
        /// What was asked for, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long the server asked to be left alone.
        wait: Option<Duration>,
    },
    /// No connection came about.
    #[error("{url}: cannot connect: {cause}")]
    Unreachable {
        /// What was asked for, without credentials.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// The connection came about, but its encryption did not.
    #[error("{url}: no trusted TLS connection: {cause}")]
    Tls {
        /// What was asked for, without credentials.
        url: String,
        /// The innermost cause.
        cause: String,
        /// False if not a single certificate authority was found on this machine.
        authorities: bool,
    },
    /// The connection ended before the file did.
    #[error("{url}: the connection broke: {cause}")]
    Broken {
        /// What was asked for, without credentials.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// Nothing arrived for too long.
    #[error("{url}: nothing arrived for {} s", idle.as_secs_f32())]
    Stalled {
        /// What was asked for, without credentials.
        url: String,
        /// How long silo waited.
        idle: Duration,
    },
    /// The answer arrives so slowly that waiting for it is no use.
    #[error("{url}: too slow: {bytes} bytes in {} s", time.as_secs())]
    Slow {
        /// What was asked for, without credentials.
        url: String,
        /// The bytes that arrived.
        bytes: u64,
        /// In this time.
        time: Duration,
    },
    /// The server sent silo somewhere it does not go.
    #[error("{url}: bad redirect: {cause}")]
    Redirect {
        /// What was asked for, without credentials.
        url: String,
        /// Why it was not followed.
        cause: String,
    },
    /// The server answered a request for the rest of a file with some other part.
    #[error("{url}: asked for the bytes from {from} on, got {got}")]
    Range {
        /// What was asked for, without credentials.
        url: String,
        /// The first byte asked for.
        from: u64,
        /// The Content-Range that came.
        got: String,
    },
    /// The address cannot be used.
    #[error("{url}: {cause}")]
    Address {
        /// The address, without credentials.
        url: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The file is whole and is another one.
    #[error("{url}: expected sha256 {expected}, got {got}")]
    WrongDigest {
        /// Where the bytes came from: an address, or a path.
        url: String,
        /// The pinned digest, in hex.
        expected: String,
        /// The digest of what came, in hex.
        got: String,
    },
    /// The file has another size than the one pinned, or more bytes than allowed.
    #[error("{url}: expected {expected}, got {got} bytes or more")]
    WrongSize {
        /// Where the bytes came from.
        url: String,
        /// What was pinned.
        expected: Size,
        /// How many bytes came or were announced, at least.
        got: u64,
    },
    /// Every candidate says that the file is not there (404, 410, or no such local file).
    #[error("{name}: gone from {}", urls.join(", "))]
    Gone {
        /// What was fetched.
        name: String,
        /// Where it was looked for.
        urls: Vec<String>,
    },
    /// Every candidate failed, not all of them in the same way.
    #[error("{name}: {}", join(reasons))]
    Everywhere {
        /// What was fetched.
        name: String,
        /// One error a candidate, in the order tried.
        reasons: Vec<Error>,
    },
    /// There was no address to try.
    #[error("{name}: no mirror is known for it")]
    Nowhere {
        /// What was fetched.
        name: String,
    },
    /// A local file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client: {cause}")]
    Client {
        /// The innermost cause.
        cause: String,
    },
    /// The caller asked to stop; what had arrived is kept and will be resumed.
    #[error("fetching was interrupted")]
    Cancelled,
}

/// How many bytes a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The pinned size.
    Exactly(u64),
    /// No size is pinned; more than this is refused.
    AtMost(u64),
}

impl Size {
    /// Returns the largest number of bytes that may arrive.
    pub fn bound(self) -> u64 {
        match self {
            Size::Exactly(bytes) | Size::AtMost(bytes) => bytes,
        }
    }

    /// Says whether a whole file of `len` bytes fits.
    pub fn admits(self, len: u64) -> bool {
        match self {
            Size::Exactly(bytes) => len == bytes,
            Size::AtMost(bytes) => len <= bytes,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Exactly(bytes) => write!(f, "{bytes} bytes"),
            Size::AtMost(bytes) => write!(f, "at most {bytes} bytes"),
        }
    }
}

impl Error {
    /// Says whether the candidate knows the file no longer, so that an older archive or a new lock may help.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone { .. } | Error::Status { status: 404 | 410, .. })
    }

    /// Says whether the same request may work a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            Error::Unreachable { .. } | Error::Broken { .. } | Error::Stalled { .. } => true,
            // Another attempt would take as long; another candidate may be faster.
            Error::Slow { .. }
            | Error::Tls { .. }
            | Error::Redirect { .. }
            | Error::Range { .. }
            | Error::Address { .. }
            | Error::WrongDigest { .. }
            | Error::WrongSize { .. }
            | Error::Gone { .. }
            | Error::Everywhere { .. }
            | Error::Nowhere { .. }
            | Error::Io { .. }
            | Error::Client { .. }
            | Error::Cancelled => false,
        }
    }

    /// Says whether another candidate cannot help: the trouble is on this side.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Error::Io { .. } | Error::Client { .. } | Error::Cancelled)
    }

    /// Returns what the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Status { status: 401 | 403, .. } => {
                "the mirror wants a login or refuses this machine: put user:password@ into its address, or set another mirror in silo.toml"
            }
            Error::Status { status: 407, .. } => "the proxy wants a login: put user:password@ into HTTP_PROXY and HTTPS_PROXY",
            Error::Status { status: 404 | 410, .. } | Error::Gone { .. } => {
                "mirrors drop superseded files: run `silo lock --update` to lock what they have today"
            }
            Error::Status { status: 429, .. } => {
                "the server has had too many requests: wait a few minutes, then run the same command again"
            }
            Error::Status { status: 500..=599, .. } => {
                "the server is in trouble: run the same command later, or set another mirror in silo.toml"
            }
            Error::Unreachable { .. } | Error::Broken { .. } | Error::Stalled { .. } | Error::Slow { .. } => {
                "check the network, HTTP_PROXY, HTTPS_PROXY and NO_PROXY, then run the same command again: it goes on where it stopped"
            }
            Error::Tls { authorities: false, .. } => {
                "this machine has no certificate authorities: install ca-certificates, or set SSL_CERT_FILE"
            }
            Error::Tls { .. } => {
                "if a proxy of yours signs connections anew, add its root certificate to the system's store, or set SSL_CERT_FILE"
            }
            Error::WrongDigest { .. } | Error::WrongSize { .. } => {
                "the mirror or a proxy served something else: try another mirror in silo.toml, or look at what the address shows"
            }
            Error::Nowhere { .. } => "set a mirror in silo.toml: none was found in the apt configuration of this machine",
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space, then run the same command again: it goes on where it stopped"
            }
            Error::Everywhere { reasons, .. } => return reasons.iter().find_map(Error::hint),
            Error::Status { .. }
            | Error::Redirect { .. }
            | Error::Range { .. }
            | Error::Address { .. }
            | Error::Io { .. }
            | Error::Client { .. }
            | Error::Cancelled => return None,
        };
        Some(text.to_owned())
    }

    /// Wraps a failed system call on `path`.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io { action, path: path.to_owned(), source }
    }
}

/// Makes one error of what every candidate of `name` said; `urls` are the candidates as they may be shown.
pub(super) fn verdict(name: &str, urls: Vec<String>, mut reasons: Vec<Error>) -> Error {
    if reasons.is_empty() {
        return Error::Nowhere { name: name.to_owned() };
    }
    if reasons.iter().all(Error::is_gone) {
        return Error::Gone { name: name.to_owned(), urls };
    }
    if reasons.len() == 1 {
        return reasons.remove(0);
    }
    Error::Everywhere { name: name.to_owned(), reasons }
}

fn join(reasons: &[Error]) -> String {
    reasons.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

fn meaning(status: u16) -> &'static str {
    match status {
        401 => " (login wanted)",
        403 => " (forbidden)",
        404 => " (not found)",
        407 => " (the proxy wants a login)",
        410 => " (gone)",
        416 => " (no such range)",
        429 => " (too many requests)",
        500 => " (internal error)",
        502 => " (bad gateway)",
        503 => " (unavailable)",
        504 => " (gateway timeout)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16) -> Error {
        Error::Status { url: "http://example.com/a".to_owned(), status, wait: None }
    }

    #[test]
    fn the_verdict_is_gone_only_if_all_say_so() {
        let urls = ["http://example.com/a".to_owned(), "http://example.com/b".to_owned()];
        let gone = verdict("a", urls.to_vec(), vec![status(404), status(410)]);
        assert!(gone.is_gone());
        assert_eq!(gone.to_string(), "a: gone from http://example.com/a, http://example.com/b");
        let mixed = verdict("a", urls.to_vec(), vec![status(404), status(403)]);
        assert!(!mixed.is_gone());
        assert!(mixed.to_string().contains("404 (not found); http://example.com/a: the server answered 403 (forbidden)"));
        assert!(matches!(verdict("a", Vec::new(), Vec::new()), Error::Nowhere { .. }));
    }

    #[test]
    fn only_passing_troubles_are_tried_again() {
        for (code, again) in [(401, false), (403, false), (404, false), (407, false), (429, true), (500, true), (501, false), (503, true)] {
            assert_eq!(status(code).is_transient(), again, "{code}");
            assert!(status(code).hint().is_some(), "{code}");
        }
    }
}
