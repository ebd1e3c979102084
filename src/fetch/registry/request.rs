//! Requests to a registry: their environment, addresses and answers.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use silo_store::digest::Digest;

use crate::transport::{Answer, Transport};
use silo_base::sanitize::brief;
use silo_model::oci::manifest::{Configuration, Pointer};
use silo_model::oci::reference::Place;

use super::error::Error;
use super::realm;

/// The environment of a registry request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The HTTP client.
    pub transport: &'a Transport,
    /// The user's home directory, which holds the logins.
    pub user_home: &'a Path,
    /// Set by another thread to cancel.
    pub cancel: &'a AtomicBool,
}

/// An image for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformImage {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its configuration.
    pub configuration: Configuration,
    /// Its layers, lowest first.
    pub layers: Vec<Pointer>,
}

/// Returns the body of an answer with status 200, else the registry's error.
pub(super) fn accepted(url: &str, answer: Answer) -> Result<Vec<u8>, Error> {
    match answer.status {
        200 => Ok(answer.bytes),
        status => {
            // The error format of the specification; proxies answer in other formats.
            let value: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
            let text = brief(value["errors"][0]["message"].as_str().unwrap_or_default());
            Err(Error::Status { url: url.to_owned(), status, text })
        }
    }
}

/// The address of a repository. Loopback registries use plain http, as with other clients.
pub(super) fn base(place: &Place) -> String {
    match place {
        Place::Registry { host, repository } => {
            format!("{}://{host}/v2/{repository}", if realm::is_loopback(host) { "http" } else { "https" })
        }
        Place::Layout(path) | Place::Archive { path, .. } => path.display().to_string(),
    }
}
