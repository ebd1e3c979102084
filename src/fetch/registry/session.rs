//! The requests to one repository of a registry, with its login; other locations need none.

use std::path::Path;

use reqwest::Url;

use silo_base::sanitize::brief;
use silo_model::oci::location::Location;
use silo_model::oci::reference::{Place, Reference};

use crate::exchange::{Reply, Request};

use super::error::Error;
use super::login;
use super::request::{Context, base};

/// Requests to a repository.
pub struct Session<'a> {
    /// The environment.
    pub context: Context<'a>,
    /// The repository.
    pub location: Location,
    /// The repository as a reference, for logins.
    reference: Option<Reference>,
}

/// The source of a blob's bytes.
pub enum Bytes<'a> {
    /// In memory.
    Here(&'a [u8]),
    /// In a file.
    File(&'a Path),
}

/// The result of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The repository had the blob.
    Present,
    /// The registry took it from another repository.
    Mounted,
    /// All bytes were sent.
    Sent,
}

impl<'a> Session<'a> {
    /// Returns the requests to a location; asks nothing yet.
    pub fn new(context: Context<'a>, location: Location) -> Session<'a> {
        let reference = match &location {
            Location::Registry { host, repository } => {
                let place = Place::Registry { host: host.clone(), repository: repository.clone() };
                Some(Reference { place, tag: None, digest: None })
            }
            Location::Directory(_) | Location::Web(_) => None,
        };
        Session { context, location, reference }
    }

    /// Returns the address of a registry's repository.
    pub fn base(&self) -> String {
        self.reference.as_ref().map(|reference| base(&reference.place)).unwrap_or_default()
    }

    /// Returns the host of a registry.
    pub fn host(&self) -> &str {
        match &self.location {
            Location::Registry { host, .. } => host,
            Location::Directory(_) | Location::Web(_) => "",
        }
    }

    /// Sends a request; authenticates if asked to.
    pub fn call(&self, request: &Request<'_>) -> Result<Reply, Error> {
        let reply = self.context.transport.exchange(request, self.context.cancel)?;
        self.authenticated(request.url, reply, || Ok(self.context.transport.exchange(request, self.context.cancel)?))
    }

    /// Authenticates and sends a request again, if the answer asks for that.
    pub fn authenticated(&self, url: &str, mut reply: Reply, again: impl FnOnce() -> Result<Reply, Error>) -> Result<Reply, Error> {
        let Some(reference) = &self.reference else { return Ok(reply) };
        let Some(challenge) = reply.challenge.take().filter(|_| reply.status == 401) else { return Ok(reply) };
        // A challenge from a server that the registry redirected to does not count, as for reading.
        if let Some(origin) = reply.elsewhere {
            return Err(Error::Elsewhere { url: url.to_owned(), origin: brief(&origin) });
        }
        // Nor does one from another server that the registry named, such as the place of an upload.
        if !is_same_origin(url, &self.base()) {
            return Err(Error::Elsewhere { url: url.to_owned(), origin: brief(url) });
        }
        let pass = login::pass(self.context, reference, url, &challenge)?;
        self.context.transport.show(&pass.prefix, pass.value);
        again()
    }
}

/// True if two addresses have the same origin: scheme, host and port.
fn is_same_origin(url: &str, base: &str) -> bool {
    let origin = |url: &str| Url::parse(url).ok().map(|url| url.origin());
    origin(url).is_some_and(|one| Some(one) == origin(base))
}

/// Returns the error for an unexpected status.
pub fn refused(url: &str, reply: &Reply) -> Error {
    let value: serde_json::Value = serde_json::from_slice(&reply.bytes).unwrap_or_default();
    let text = brief(value["errors"][0]["message"].as_str().unwrap_or_default());
    Error::Status { url: url.to_owned(), status: reply.status, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_for_one_origin() {
        let base = "https://registry.example.com/v2/team/app";
        for (url, expect) in [
            ("https://registry.example.com/v2/team/app/blobs/uploads/1?x=y", true),
            ("https://registry.example.com:443/other", true),
            ("https://registry.example.com:8443/v2/", false),
            ("http://registry.example.com/v2/", false),
            ("https://uploads.example.com/v2/", false),
            ("https://registry.example.com@evil.example/v2/", false),
            ("not an address", false),
        ] {
            assert_eq!(is_same_origin(url, base), expect, "{url}");
        }
    }
}
