//! Errors of a fetch, and hints for each.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use silo_base::sanitize::brief;

/// A failed fetch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with an error status.
    #[error("{url}: the server answered {status}{}{}", meaning(*status), asked_pause(*wait))]
    Status {
        /// The requested address, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The delay in the server's Retry-After header.
        wait: Option<Duration>,
    },
    /// The connection failed.
    #[error("{url}: cannot connect: {cause}")]
    Unreachable {
        /// The requested address, without credentials.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// The TLS handshake failed.
    #[error("{url}: no trusted TLS connection: {cause}")]
    Tls {
        /// The requested address, without credentials.
        url: String,
        /// The innermost cause.
        cause: String,
        /// False if this machine has no certificate authority at all.
        authorities: bool,
    },
    /// The connection ended before the file did.
    #[error("{url}: the connection broke: {cause}")]
    Broken {
        /// The requested address, without credentials.
        url: String,
        /// The innermost cause.
        cause: String,
    },
    /// No data arrived before the timeout.
    #[error("{url}: nothing arrived for {} s", idle.as_secs_f32())]
    Stalled {
        /// The requested address, without credentials.
        url: String,
        /// The timeout.
        idle: Duration,
    },
    /// The transfer is too slow to wait for.
    #[error("{url}: too slow: {bytes} bytes in {} s", time.as_secs())]
    Slow {
        /// The requested address, without credentials.
        url: String,
        /// The bytes that arrived.
        bytes: u64,
        /// The time they took.
        time: Duration,
    },
    /// The server redirected to an address that silo does not follow.
    #[error("{url}: bad redirect: {cause}")]
    Redirect {
        /// The requested address, without credentials.
        url: String,
        /// The reason.
        cause: String,
    },
    /// The server answered a range request with another range.
    #[error("{url}: asked for the bytes from {from} on, got {}", brief(.got))]
    Range {
        /// The requested address, without credentials.
        url: String,
        /// The first requested byte.
        from: u64,
        /// The Content-Range of the response.
        got: String,
    },
    /// The address cannot be used.
    #[error("{url}: {cause}")]
    Address {
        /// The address, without credentials.
        url: String,
        /// The error in it.
        cause: String,
    },
    /// The file is complete, but its digest differs.
    #[error("{url}: expected sha256 {expected}, got {got}")]
    WrongDigest {
        /// The source of the bytes: an address or a path.
        url: String,
        /// The pinned digest, in hex.
        expected: String,
        /// The actual digest, in hex.
        got: String,
    },
    /// The file has another size than its pin, or exceeds the limit.
    #[error("{url}: expected {expected}, got {got} bytes or more")]
    WrongSize {
        /// The source of the bytes.
        url: String,
        /// The pinned size or the limit.
        expected: Size,
        /// The announced or received bytes, at least.
        got: u64,
    },
    /// No candidate has the file (404, 410, or no such local file).
    #[error("{name}: gone from {}", urls.join(", "))]
    Gone {
        /// The name of the file.
        name: String,
        /// The addresses that were tried.
        urls: Vec<String>,
    },
    /// Every candidate failed, for different reasons.
    #[error("{name}: {}", join(reasons))]
    Everywhere {
        /// The name of the file.
        name: String,
        /// One error for each candidate, in the order tried.
        reasons: Vec<Error>,
    },
    /// There is no address to try.
    #[error("{name}: no mirror is known for it")]
    Nowhere {
        /// The name of the file.
        name: String,
    },
    /// The transport asks no server.
    #[error("{url}: not fetched, because of --offline")]
    Offline {
        /// The address, without credentials.
        url: String,
    },
    /// A local file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client: {cause}")]
    Client {
        /// The innermost cause.
        cause: String,
    },
    /// The caller cancelled the fetch; partial files stay and are resumed.
    #[error("fetching was interrupted")]
    Cancelled,
}

/// A limit on the size of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The pinned size.
    Exactly(u64),
    /// No size is pinned; more bytes than this are refused.
    AtMost(u64),
}

impl Size {
    /// Returns the most bytes that may arrive.
    pub fn bound(self) -> u64 {
        match self {
            Size::Exactly(bytes) | Size::AtMost(bytes) => bytes,
        }
    }

    /// Whether a complete file of `len` bytes is acceptable.
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
    /// Whether the candidate no longer has the file, so that a snapshot archive or a new lock may help.
    pub fn is_gone(&self) -> bool {
        matches!(self, Error::Gone { .. } | Error::Status { status: 404 | 410, .. })
    }

    /// Whether a retry of the same request may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            Error::Unreachable { .. } | Error::Broken { .. } | Error::Stalled { .. } => true,
            // A retry would be just as slow; another candidate may be faster.
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
            | Error::Offline { .. }
            | Error::Io { .. }
            | Error::Client { .. }
            | Error::Cancelled => false,
        }
    }

    /// Whether no other candidate can help, because the fault is local.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Error::Io { .. } | Error::Client { .. } | Error::Cancelled)
    }

    /// Returns a hint for the user, if there is one.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Status { status: 401 | 403, .. } => {
                "the mirror wants a login or refuses this machine: put user:password@ into its address, or set another mirror in silo.toml"
            }
            Error::Status { status: 407, .. } => "the proxy wants a login: put user:password@ into HTTP_PROXY and HTTPS_PROXY",
            Error::Status { status: 404 | 410, .. } | Error::Gone { .. } => {
                "mirrors drop superseded files: run `silo lock --update` to lock the current ones"
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
                "if a proxy of yours replaces TLS certificates, add its root certificate to the system's store, or set SSL_CERT_FILE"
            }
            Error::WrongDigest { .. } | Error::WrongSize { .. } => {
                "the mirror or a proxy served something else: try another mirror in silo.toml, or open the address in a browser"
            }
            Error::Nowhere { .. } => "set a mirror in silo.toml: none was found in the apt configuration of this machine",
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space, then run the same command again: it goes on where it stopped"
            }
            Error::Offline { .. } => {
                "run the same command without --offline, or name a cache of this machine with its inputs: `silo vendor DIR` fills one"
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

/// Merges the errors of all candidates of `name` into one; `urls` are the candidates for display.
pub(super) fn verdict(name: &str, urls: Vec<String>, mut reasons: Vec<Error>) -> Error {
    if reasons.is_empty() {
        return Error::Nowhere { name: name.to_owned() };
    }
    if reasons.iter().all(Error::is_gone) {
        return Error::Gone { name: name.to_owned(), urls };
    }
    // A local file with a fault matters more than the servers that were not asked.
    let is_offline = |reason: &Error| matches!(reason, Error::Offline { .. });
    if reasons.iter().any(|reason| !is_offline(reason) && !reason.is_gone()) {
        reasons.retain(|reason| !is_offline(reason));
    } else if reasons.iter().any(is_offline) {
        reasons.retain(is_offline);
        reasons.truncate(1);
    }
    if reasons.len() == 1 {
        return reasons.remove(0);
    }
    Error::Everywhere { name: name.to_owned(), reasons }
}

/// Names the pause that a server wants, if it is long enough to matter to a person.
fn asked_pause(wait: Option<Duration>) -> String {
    match wait {
        Some(Duration::MAX) => ", and wants a pause without end".to_owned(),
        Some(wait) if wait.as_secs() > 0 => format!(", and wants a pause of {} s", wait.as_secs()),
        _ => String::new(),
    }
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
        let offline = || Error::Offline { url: "http://example.com/b".to_owned() };
        assert!(matches!(verdict("a", urls.to_vec(), vec![status(404), offline(), offline()]), Error::Offline { .. }));
        assert!(matches!(verdict("a", urls.to_vec(), vec![status(403), offline()]), Error::Status { status: 403, .. }));
    }

    #[test]
    fn only_passing_troubles_are_tried_again() {
        for (code, again) in [(401, false), (403, false), (404, false), (407, false), (429, true), (500, true), (501, false), (503, true)] {
            assert_eq!(status(code).is_transient(), again, "{code}");
            assert!(status(code).hint().is_some(), "{code}");
        }
    }
}
