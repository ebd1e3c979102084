//! Secrets by reference: the source of a value, and the hosts that receive it, as settings write them.
//!
//! Pure: text in, data out. A reference has no value.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grant::{Host, split_port};

/// The port of a host without a port: https.
const USUAL_PORT: u16 = 443;

/// The source of a secret's value on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Source {
    /// An environment variable of silo.
    Env(String),
    /// A file.
    File(PathBuf),
    /// The standard output of a command, which `/bin/sh` runs.
    Command(String),
    /// An entry of the user's keyring: service and account.
    Keyring {
        /// The service.
        service: String,
        /// The account.
        account: String,
    },
}

/// A text that names no source or no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a source.
    #[error("\"{0}\" is not a source of a secret; write env:NAME, file:/PATH, command:COMMAND or keyring:SERVICE/ACCOUNT")]
    Source(String),
    /// Not a host.
    #[error("\"{0}\" is not a host of a secret; write a name such as api.example.com or api.example.com:8443, and no wildcard or address")]
    Host(String),
}

impl Source {
    /// Parses a source.
    pub fn parse(text: &str) -> Result<Source, Error> {
        let wrong = || Error::Source(text.to_owned());
        let (kind, rest) = text.split_once(':').filter(|(_, rest)| !rest.is_empty() && !rest.contains('\0')).ok_or_else(wrong)?;
        match kind {
            "env" if !rest.contains('=') => Ok(Source::Env(rest.to_owned())),
            "file" if rest.starts_with('/') || rest.starts_with("~/") => Ok(Source::File(rest.into())),
            "command" => Ok(Source::Command(rest.to_owned())),
            "keyring" => match rest.split_once('/') {
                Some((service, account)) if !service.is_empty() && !account.is_empty() && !rest.starts_with('-') => {
                    Ok(Source::Keyring { service: service.to_owned(), account: account.to_owned() })
                }
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Env(name) => write!(f, "env:{name}"),
            Source::File(path) => write!(f, "file:{}", path.display()),
            Source::Command(command) => write!(f, "command:{command}"),
            Source::Keyring { service, account } => write!(f, "keyring:{service}/{account}"),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = Error;

    fn try_from(text: String) -> Result<Source, Error> {
        Source::parse(&text)
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        source.to_string()
    }
}

/// Parses a host of a secret: exactly one name, and its port.
pub fn host(text: &str) -> Result<(Host, u16), Error> {
    let wrong = || Error::Host(text.to_owned());
    let (host, port) = split_port(text).ok_or_else(wrong)?;
    // TLS names no address, so a connection to one cannot be told from another.
    let host = Host::parse(host).filter(|host| !host.is_address()).ok_or_else(wrong)?;
    Ok((host, port.unwrap_or(USUAL_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_hosts_are_read_and_others_are_refused() {
        for text in ["env:GH_TOKEN", "file:/run/secret", "file:~/.token", "command:pass show a | head -1", "keyring:example/me/you"] {
            assert_eq!(Source::parse(text).expect(text).to_string(), text);
        }
        for text in [
            "",
            "GH_TOKEN",
            "env:",
            "env:A=B",
            "file:token",
            "file:../x",
            "keyring:a",
            "keyring:/a",
            "keyring:-a/b",
            "vault:a",
            "command:a\0b",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
        let read = |text: &str| host(text).ok().map(|(host, port)| (host.as_str().to_owned(), port));
        assert_eq!(read("API.example.com"), Some(("api.example.com".to_owned(), 443)));
        assert_eq!(read("a.example:8443"), Some(("a.example".to_owned(), 8443)));
        for text in ["*", "*.example.com", "a b", "a.example:0", "https://a.example", "a.example/x", "192.0.2.1", "[::1]:443", ""] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
