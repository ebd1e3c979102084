//! References to images: in a registry, or in a layout or an archive on this machine.
//!
//! Local images are named as in skopeo, podman and buildah (containers-transports(5)), except that the path must be absolute, since a
//! recipe must mean the same in every directory.

use std::path::{Path, PathBuf};

use silo_store::digest::Digest;

/// A reference to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The place of the image.
    pub place: Place,
    /// Its tag, or its full name in an archive, if given.
    pub tag: Option<String>,
    /// Its digest, if given; it overrides the tag.
    pub digest: Option<Digest>,
}

/// The place of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A registry.
    Registry {
        /// The registry, as `host` or `host:port`.
        host: String,
        /// The repository in it.
        repository: String,
    },
    /// A directory with an OCI layout.
    Layout(PathBuf),
    /// A single file.
    Archive {
        /// The file.
        path: PathBuf,
        /// The format.
        form: Form,
    },
}

/// The format of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The tar of an OCI layout.
    Oci,
    /// The output of `docker save`.
    Docker,
}

/// The most characters of a repository name, by the distribution specification.
const MAX_REPOSITORY: usize = 255;
/// The most characters of a tag.
const MAX_TAG: usize = 128;

/// Parses `host[:port]/repository[:tag][@sha256:digest]`, `oci:/path[:tag]`, `oci-archive:/path[:name]` or `docker-archive:/path[:name]`;
/// the error explains the mistake.
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
    // A colon before the last slash belongs to a port.
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

/// Makes a local image's path absolute, relative to `base`; leaves other references unchanged.
pub fn from(base: &Path, text: &str) -> String {
    for transport in ["oci:", "oci-archive:", "docker-archive:"] {
        if let Some(rest) = text.strip_prefix(transport).filter(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            return format!("{transport}{}/{}", base.display(), rest.trim_start_matches("./"));
        }
    }
    text.to_owned()
}

/// Parses the rest after `oci-archive:` or `docker-archive:`. The path ends at the first colon, as in other tools.
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

/// Checks the name of an image in an archive, which is compared with names there and shown to the user.
fn check_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+".contains(c);
    let is_long = name.len() > MAX_REPOSITORY + MAX_TAG;
    // A name that ends with a colon has an empty tag.
    match !is_long && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) && !name.ends_with(':') {
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
    /// Returns the identifier to request: the digest, else the tag, else `latest`.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// Returns the image's version: its tag, else the start of its digest, else `latest`.
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
    fn references_are_parsed_and_wrong_ones_refused() {
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
            ("docker-archive:/x.tar:a/b:", "is not a name of an image"),
            ("docker-archive:/x.tar@sha256:0", "64 hexadecimal digits"),
            ("exa mple.com/x", "not a host"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
