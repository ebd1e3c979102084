//! Locations of repositories that hold pushed images: in a registry, in a directory, or on a static web server.

use std::fmt;
use std::path::PathBuf;

use super::reference::{self, Place};

/// A repository of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In a registry.
    Registry {
        /// The registry, as `host` or `host:port`.
        host: String,
        /// The repository in it.
        repository: String,
    },
    /// A directory with an OCI layout.
    Directory(PathBuf),
    /// A web server with the files of an OCI layout below this address, which ends without a slash.
    Web(String),
}

/// Parses `host[:port]/repository`, `oci:/path`, an absolute path, or the http or https address of a layout; the error explains the mistake.
pub fn parse(text: &str) -> Result<Location, String> {
    if let Some((_, rest)) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https")) {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if host.is_empty() || host.contains('@') || rest.contains(['?', '#']) || !rest.chars().all(|c| c.is_ascii_graphic()) {
            return Err("an address has a host and a path, and no user, query or fragment".to_owned());
        }
        return Ok(Location::Web(text.trim_end_matches('/').to_owned()));
    }
    if text.starts_with('/') {
        return Ok(Location::Directory(PathBuf::from(text)));
    }
    let parsed = reference::parse(text)?;
    if parsed.tag.is_some() || parsed.digest.is_some() {
        return Err("name the repository without a tag or digest".to_owned());
    }
    of_place(&parsed.place)
}

/// Returns the repository of an image; the error explains the mistake.
pub fn of_place(place: &Place) -> Result<Location, String> {
    match place {
        Place::Registry { host, repository } => Ok(Location::Registry { host: host.clone(), repository: repository.clone() }),
        Place::Layout(path) => Ok(Location::Directory(path.clone())),
        Place::Archive { .. } => Err("an archive is one file; name a registry, or a directory as in oci:/path".to_owned()),
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Registry { host, repository } => write!(f, "{host}/{repository}"),
            Location::Directory(path) => write!(f, "oci:{}", path.display()),
            Location::Web(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_parsed_and_wrong_ones_refused() {
        let registry = Location::Registry { host: "localhost:5000".into(), repository: "team/silo".into() };
        for (text, expect) in [
            ("localhost:5000/team/silo", registry),
            ("oci:/srv/cache", Location::Directory("/srv/cache".into())),
            ("/srv/cache", Location::Directory("/srv/cache".into())),
            ("https://cache.example.com/silo/", Location::Web("https://cache.example.com/silo".into())),
        ] {
            assert_eq!(parse(text), Ok(expect), "{text}");
        }
        for text in
            ["", "silo", "https://", "https://me@example.com/x", "http://a.example.com/x?y", "example.com/x:1", "oci:x", "ftp://a/b"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
