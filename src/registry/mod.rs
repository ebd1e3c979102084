//! Images of others: what a registry, or a layout on this machine, says of one, and where its parts are.
//!
//! A registry says in a challenge what it wants to be shown; who has a login of podman or docker on this machine shows that,
//! everybody else gets what is handed out to anybody. Every document is known by its digest before it is believed, but for
//! the one that a tag names.

mod credentials;
mod login;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use silo_store::digest::Digest;

use crate::fetch::error::Error as FetchError;
use crate::fetch::transport::{Answer, Transport};
use crate::oci::image::{self, ACCEPT, Configuration, Document, MAX_DOCUMENT_BYTES, Pointer};
use crate::oci::reference::{Place, Reference};
use crate::system::Arch;

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry did not answer, or not for now.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The registry answered, but not with what was asked for.
    #[error("{url}: the registry answered {status}{}", said(.text))]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        text: String,
    },
    /// The registry wants to be shown something that silo has not.
    #[error("{url}: the registry wants {challenge:?} first")]
    Challenge {
        /// What was asked for.
        url: String,
        /// What it wants.
        challenge: String,
    },
    /// What was answered is not what its digest says.
    #[error("{url}: its sha-256 is {got}, not {expected}")]
    Digest {
        /// What was asked for.
        url: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// What was answered cannot be read.
    #[error("{url}: {what}")]
    Document {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file of a layout cannot be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl Error {
    /// What to type next.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Fetch(FetchError::Status { status: 429, .. }) => {
                "the registry limits how often it may be asked: wait, or log in with podman or docker"
            }
            Error::Fetch(error) => return error.hint(),
            Error::Status { status: 401 | 403, .. } | Error::Challenge { .. } => {
                "log in with `podman login` or `docker login`: silo reads ~/.config/containers/auth.json and ~/.docker/config.json"
            }
            Error::Status { status: 404, .. } => "is the name right, and the tag?",
            Error::Status { .. } => "the registry may be in trouble; try again later",
            Error::Digest { .. } => "something between here and the registry changes what passes, or the registry is broken",
            Error::Document { .. } | Error::Read { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// What a registry is asked with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The way out.
    pub transport: &'a Transport,
    /// The user's home directory, where logins are.
    pub user_home: &'a Path,
    /// Set by someone else to stop.
    pub cancel: &'a AtomicBool,
}

/// An image for one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its manifest's digest.
    pub manifest: Digest,
    /// What its configuration says.
    pub configuration: Configuration,
    /// Its layers, lowest first.
    pub layers: Vec<Pointer>,
}

/// Finds what a name stands for now, for every architecture that it has.
pub fn find(context: Context<'_>, reference: &Reference) -> Result<BTreeMap<Arch, Found>, Error> {
    let (url, bytes) = match &reference.place {
        Place::Registry { .. } => {
            let url = manifest_url(reference, &reference.wanted());
            let bytes = ask(context, reference, &url)?;
            (url, bytes)
        }
        Place::Layout(dir) => named(dir, reference)?,
    };
    let digest = Digest::of(&bytes);
    if let Some(expected) = reference.digest.filter(|expected| *expected != digest) {
        return Err(Error::Digest { url, expected, got: digest });
    }
    let mut images = BTreeMap::new();
    match document(&url, &bytes)? {
        Document::Manifest { config, layers } => {
            let found = image_of(context, reference, digest, config, layers)?;
            images.insert(found.configuration.arch, found);
        }
        Document::Index(entries) => {
            for (_, entry) in entries {
                let (url, bytes) = part(context, reference, &entry, Part::Manifest)?;
                // What goes with an image, such as a statement of who built it, is listed like one.
                let Document::Manifest { config, layers } = document(&url, &bytes)? else { continue };
                let found = image_of(context, reference, entry.digest, config, layers)?;
                images.entry(found.configuration.arch).or_insert(found);
            }
        }
    }
    match images.is_empty() {
        true => Err(Error::Document { url, what: "it has no image for linux on amd64 or arm64".to_owned() }),
        false => Ok(images),
    }
}

/// Where a part of an image is fetched from; what the registry wants to be shown is found out first.
pub fn blobs(context: Context<'_>, reference: &Reference, manifest: Digest) -> Result<impl Fn(Digest) -> String, Error> {
    if let Place::Registry { .. } = &reference.place {
        ask(context, reference, &manifest_url(reference, &format!("sha256:{manifest}")))?;
    }
    let place = reference.place.clone();
    Ok(move |digest| blob_url(&place, digest))
}

fn image_of(context: Context<'_>, reference: &Reference, manifest: Digest, config: Pointer, layers: Vec<Pointer>) -> Result<Found, Error> {
    let (url, bytes) = part(context, reference, &config, Part::Blob)?;
    let configuration = image::configuration(&bytes).map_err(|what| Error::Document { url: url.clone(), what })?;
    if configuration.diff_ids.len() != layers.len() {
        let what = format!("it names {} layers, and its manifest {}", configuration.diff_ids.len(), layers.len());
        return Err(Error::Document { url, what });
    }
    Ok(Found { manifest, configuration, layers })
}

fn document(url: &str, bytes: &[u8]) -> Result<Document, Error> {
    image::document(bytes).map_err(|what| Error::Document { url: url.to_owned(), what })
}

/// What kind of part is asked for: registries keep manifests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Manifest,
    Blob,
}

/// Gets a small part of an image, which must have its digest and size.
fn part(context: Context<'_>, reference: &Reference, pointer: &Pointer, kind: Part) -> Result<(String, Vec<u8>), Error> {
    let (url, bytes) = match (&reference.place, kind) {
        (Place::Registry { .. }, Part::Manifest) => {
            let url = manifest_url(reference, &format!("sha256:{}", pointer.digest));
            let bytes = ask(context, reference, &url)?;
            (url, bytes)
        }
        (place @ Place::Registry { .. }, Part::Blob) => {
            let url = blob_url(place, pointer.digest);
            let bytes = ask(context, reference, &url)?;
            (url, bytes)
        }
        (place @ Place::Layout(_), _) => {
            let path = blob_url(place, pointer.digest);
            let bytes = read(Path::new(&path))?;
            (path, bytes)
        }
    };
    let got = Digest::of(&bytes);
    match got == pointer.digest && bytes.len() as u64 == pointer.size {
        true => Ok((url, bytes)),
        false => Err(Error::Digest { url, expected: pointer.digest, got }),
    }
}

/// Asks a registry, showing what it wants to be shown.
fn ask(context: Context<'_>, reference: &Reference, url: &str) -> Result<Vec<u8>, Error> {
    let ask = || context.transport.ask(url, ACCEPT, None, MAX_DOCUMENT_BYTES, context.cancel);
    let mut answer = ask()?;
    if answer.status == 401
        && let Some(challenge) = answer.challenge.take()
    {
        let (prefix, pass) = login::pass(context, reference, url, &challenge)?;
        context.transport.show(&prefix, pass);
        answer = ask()?;
    }
    accepted(url, answer)
}

fn accepted(url: &str, answer: Answer) -> Result<Vec<u8>, Error> {
    match answer.status {
        200 => Ok(answer.bytes),
        status => {
            // {"errors":[{"code":"…","message":"…"}]}, by the specification; proxies answer as they please.
            let value: serde_json::Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
            let text = value["errors"][0]["message"].as_str().unwrap_or_default();
            let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            Err(Error::Status { url: url.to_owned(), status, text })
        }
    }
}

/// The address of a registry's repository. Loopback is asked without encryption, as every other client does.
fn base(place: &Place) -> String {
    match place {
        Place::Registry { host, repository } => {
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            let local = name == "localhost" || name.starts_with("127.") || name == "[::1]";
            format!("{}://{host}/v2/{repository}", if local { "http" } else { "https" })
        }
        Place::Layout(dir) => dir.display().to_string(),
    }
}

fn manifest_url(reference: &Reference, wanted: &str) -> String {
    format!("{}/manifests/{wanted}", base(&reference.place))
}

fn blob_url(place: &Place, digest: Digest) -> String {
    match place {
        Place::Registry { .. } => format!("{}/blobs/sha256:{digest}", base(place)),
        Place::Layout(_) => format!("{}/blobs/sha256/{digest}", base(place)),
    }
}

/// Finds the manifest or index that a layout has under a name.
fn named(dir: &Path, reference: &Reference) -> Result<(String, Vec<u8>), Error> {
    let path = dir.join("index.json");
    let bytes = read(&path)?;
    let wrong = |what: String| Error::Document { url: path.display().to_string(), what };
    let index: oci_spec::image::ImageIndex = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let name = |entry: &oci_spec::image::Descriptor| {
        entry.annotations().as_ref().and_then(|all| all.get("org.opencontainers.image.ref.name").cloned())
    };
    let entries = index.manifests();
    let wanted = reference.wanted();
    let fits = |entry: &&oci_spec::image::Descriptor| match (&reference.digest, &reference.tag) {
        (Some(_), _) => entry.digest().to_string() == wanted,
        (None, Some(tag)) => name(entry).as_ref() == Some(tag),
        (None, None) => entries.len() == 1 || name(entry).as_deref() == Some("latest"),
    };
    let entry = entries.iter().find(fits).ok_or_else(|| {
        let names: Vec<String> = entries.iter().filter_map(name).collect();
        wrong(format!("it has no \"{wanted}\"; there are: {}", names.join(", ")))
    })?;
    let digest = image::digest(entry.digest().as_ref()).map_err(wrong)?;
    let blob = blob_url(&reference.place, digest);
    let bytes = read(Path::new(&blob))?;
    match Digest::of(&bytes) {
        got if got == digest => Ok((blob, bytes)),
        got => Err(Error::Digest { url: blob, expected: digest, got }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_DOCUMENT_BYTES).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}
