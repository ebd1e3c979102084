//! How an image of somebody else is named: in a registry, or in a layout or an archive on this machine.
//!
//! What is on this machine is named as skopeo, podman and buildah name it (containers-transports(5)), but for one thing: its
//! path is absolute, since a recipe means the same wherever it is read.

use std::path::{Path, PathBuf};

use silo_store::digest::Digest;

/// A name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where it lies.
    pub place: Place,
    /// Its tag, or its whole name in an archive, where one is named.
    pub tag: Option<String>,
    /// Its digest, where one is named; it counts more than the tag.
    pub digest: Option<Digest>,
}

/// Where an image lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a registry.
    Registry {
        /// The registry, as `host` or `host:port`.
        host: String,
        /// The repository in it.
        repository: String,
    },
    /// In a directory that is an OCI layout.
    Layout(PathBuf),
    /// In one file.
    Archive {
        /// The file.
        path: PathBuf,
        /// Whose form it has.
        form: Form,
    },
}

/// What an archive is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The tar of an OCI layout.
    Oci,
    /// What `docker save` writes.
    Docker,
}

/// Most characters of a repository's name, as the specification of registries says.
const MAX_REPOSITORY: usize = 255;
/// Most characters of a tag.
const MAX_TAG: usize = 128;

/// Parses `host[:port]/repository[:tag][@sha256:digest]`, `oci:/path[:tag]`, `oci-archive:/path[:name]` or
/// `docker-archive:/path[:name]`; says what is wrong with it.
pub fn parse(text: &str) -> Result<Reference, String> {
    for (transport, form) in [("oci-archive:", Form::Oci), ("docker-archive:", Form::Docker)] {
        if let Some(rest) = text.strip_prefix(transport) {
            return archive(rest, form);
        }
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let hex = digest.strip_prefix("sha256:").ok_or("a digest is sha256: and 64 hexadecimal digits")?;
            (rest, Some(Digest::parse(hex).map_err(|_| "a digest is sha256: and 64 hexadecimal digits")?))
        }
        None => (text, None),
    };
    let (rest, layout) = match rest.strip_prefix("oci:") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    // A colon before the last slash is a port's.
    let (name, tag) = match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(check_tag(tag)?)),
        None => (rest, None),
    };
    if layout {
        let path = PathBuf::from(name);
        return match path.is_absolute() {
            true => Ok(Reference { place: Place::Layout(path), tag, digest }),
            false => Err("the path of a layout must be absolute".to_owned()),
        };
    }
    let (host, repository) = name.split_once('/').ok_or_else(no_host)?;
    if !(host.contains(['.', ':']) || host == "localhost") {
        return Err(no_host());
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let part = |part: &str| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && part.chars().all(plain);
    if repository.len() > MAX_REPOSITORY || !repository.split('/').all(part) {
        return Err(format!("\"{repository}\" is not a repository: lower-case letters, digits, \"-\", \"_\", \".\" and \"/\""));
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c)) {
        return Err(format!("\"{host}\" is not a host"));
    }
    Ok(Reference { place: Place::Registry { host: host.to_owned(), repository: repository.to_owned() }, tag, digest })
}

/// Makes the path of a place on this machine absolute, from where it was typed; other names stay as they are.
pub fn from(base: &Path, text: &str) -> String {
    for transport in ["oci:", "oci-archive:", "docker-archive:"] {
        if let Some(rest) = text.strip_prefix(transport).filter(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            return format!("{transport}{}/{}", base.display(), rest.trim_start_matches("./"));
        }
    }
    text.to_owned()
}

/// Parses what follows `oci-archive:` or `docker-archive:`. The path ends at the first colon, as everywhere.
fn archive(text: &str, form: Form) -> Result<Reference, String> {
    let (rest, digest) = match text.rsplit_once("@sha256:") {
        Some((rest, hex)) => (rest, Some(Digest::parse(hex).map_err(|_| "a digest is sha256: and 64 hexadecimal digits")?)),
        None => (text, None),
    };
    let (path, name) = match rest.split_once(':') {
        Some((path, name)) => (path, Some(check_name(name)?)),
        None => (rest, None),
    };
    let path = PathBuf::from(path);
    match path.is_absolute() {
        true => Ok(Reference { place: Place::Archive { path, form }, tag: name, digest }),
        false => Err("the path of an archive must be absolute".to_owned()),
    }
}

/// Checks a name that an archive may have for an image: it is compared with those in it, and shown.
fn check_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+".contains(c);
    match name.len() <= MAX_REPOSITORY + MAX_TAG && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
        true => Ok(name.to_owned()),
        false => Err(format!("\"{name}\" is not a name of an image")),
    }
}

fn no_host() -> String {
    "name the registry too, as in registry.example.com/python:3.14".to_owned()
}

fn check_tag(tag: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !tag.is_empty() && tag.len() <= MAX_TAG && tag.chars().all(plain) && !tag.starts_with(['-', '.']) {
        true => Ok(tag.to_owned()),
        false => Err(format!("\"{tag}\" is not a tag")),
    }
}

impl Reference {
    /// What the image is asked for by: its digest, else its tag, else `latest`.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// What serves as the image's version: its tag, else the beginning of its digest, else `latest`.
    pub fn version(&self) -> String {
        let tag = self.tag.as_deref().map(|name| name.rsplit_once(':').map_or(name, |(_, tag)| tag)).filter(|tag| !tag.contains('/'));
        let digest = self.digest.map(|digest| format!("{digest:.12}"));
        tag.map(str::to_owned).or(digest).unwrap_or_else(|| "latest".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_wrong_ones_told() {
        let registry = |host: &str, repository: &str| Place::Registry { host: host.into(), repository: repository.into() };
        let digest = "ab".repeat(32);
        for (text, place, wanted) in [
            ("registry.example.com/python:3.14-slim", registry("registry.example.com", "python"), "3.14-slim"),
            ("localhost:5000/a/b_c", registry("localhost:5000", "a/b_c"), "latest"),
            (&format!("127.0.0.1:5000/x:1@sha256:{digest}"), registry("127.0.0.1:5000", "x"), &format!("sha256:{digest}")),
            ("oci:/srv/layout:v1", Place::Layout("/srv/layout".into()), "v1"),
            ("oci:/srv/layout", Place::Layout("/srv/layout".into()), "latest"),
            ("oci-archive:/srv/x.tar", Place::Archive { path: "/srv/x.tar".into(), form: Form::Oci }, "latest"),
            ("oci-archive:/srv/a@b.tar:v1", Place::Archive { path: "/srv/a@b.tar".into(), form: Form::Oci }, "v1"),
            ("docker-archive:/x.tar:localhost/x:1", Place::Archive { path: "/x.tar".into(), form: Form::Docker }, "localhost/x:1"),
        ] {
            let parsed = parse(text).expect(text);
            assert_eq!((parsed.place.clone(), parsed.wanted().as_str()), (place, wanted), "{text}");
        }
        for (text, expect) in [
            ("oci-archive:x.tar:v1", "oci-archive:/here/x.tar:v1"),
            ("oci:./x", "oci:/here/x"),
            ("docker-archive:../x", "docker-archive:/here/../x"),
            ("docker-archive:/x", "docker-archive:/x"),
            ("localhost/x", "localhost/x"),
        ] {
            assert_eq!(from(Path::new("/here"), text), expect);
        }
        for (text, expect) in [("docker-archive:/x:a/b:1.2", "1.2"), ("docker-archive:/x:a/b", "latest"), ("oci-archive:/x", "latest")] {
            assert_eq!(parse(text).expect(text).version(), expect, "{text}");
        }
        for (text, expect) in [
            ("python:3.14", "name the registry too"),
            ("library/python", "name the registry too"),
            ("example.com/Python", "not a repository"),
            ("example.com/../x", "not a repository"),
            ("example.com/x:", "not a tag"),
            ("example.com/x@md5:00", "a digest is sha256:"),
            ("oci:layout:1", "must be absolute"),
            ("oci-archive:x.tar", "must be absolute"),
            ("docker-archive:/x.tar:", "is not a name of an image"),
            ("docker-archive:/x.tar:@0", "is not a name of an image"),
            ("docker-archive:/x.tar@sha256:0", "64 hexadecimal digits"),
            ("exa mple.com/x", "not a host"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
