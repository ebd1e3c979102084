//! Versions on the command line, resolved against the versions that can be had.

use silo_model::version_files::decide;
use silo_model::version_request::{self, AvailableVersion};
use silo_tool::{View, versions};

use super::error::Failure;

/// A resolved version.
pub struct Requested {
    /// The version or prefix to write into silo.toml.
    pub pin: String,
    /// The version that it is today; `None` if the tool has no lock yet.
    pub version: Option<String>,
}

/// Resolves a requested version of a tool; fails with the list of the available ones.
pub fn resolve(view: View<'_>, tool: &str, text: &str) -> Result<Requested, Failure> {
    let request = version_request::parse(tool, text)
        .map_err(|error| Failure::usage(error.to_string(), format!("type {tool}@ and a version; `silo show {tool}` lists them")))?;
    let Some(available) = versions::available(view, tool)? else {
        return match request {
            version_request::VersionRequest::Prefix(pin) => Ok(Requested { pin, version: None }),
            _ => Err(Failure::usage(
                format!("the versions of {tool} are not known before it is locked"),
                format!("silo install {tool}; or type a version, as in {tool}@1.2"),
            )),
        };
    };
    match request.newest(&available) {
        Some(found) => Ok(Requested { pin: request.pin(tool, &found.version), version: Some(found.version.clone()) }),
        None => Err(unavailable(tool, text, &available)),
    }
}

fn unavailable(tool: &str, text: &str, available: &[AvailableVersion]) -> Failure {
    let newest = version_request::newest(available.iter()).map_or_else(|| tool.to_owned(), |one| format!("{tool}@{}", one.version));
    Failure::found(format!("{tool} {text} is not available: {}", decide::list(available)), format!("type {newest}, or another one of them"))
}
