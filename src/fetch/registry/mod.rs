//! Images from a registry, a layout or an archive: their manifests and configurations, and the addresses of their layers.
//!
//! A registry may answer with an authentication challenge. If podman or docker stores a login for it, silo uses that; otherwise it asks for
//! an anonymous token. Every document is verified by its digest, except the one that a tag names.

pub mod challenge;
mod credentials;
mod error;
mod realm;

mod request;

mod login;

mod archive;

mod layout;

mod layout_writer;

mod session;

mod upload;

pub mod repository;

use std::collections::BTreeMap;
use std::path::Path;

use silo_store::digest::Digest;

use crate::download::Request;
use crate::transport::Get;
use silo_base::sanitize::brief;
use silo_base::system::Arch;
use silo_model::oci::manifest::{self, ACCEPT, Document, MAX_DOCUMENT_BYTES, Pointer};
use silo_model::oci::reference::{Form, Place, Reference};

use layout::Layout;
use request::{accepted, base};

pub use error::Error;
pub use request::{Context, PlatformImage};

/// The most manifests read from an index: one for each architecture, with a margin for entries that are not images.
const MAX_MANIFESTS: usize = 32;

/// The source of an image's parts.
enum Source<'a> {
    Registry(Context<'a>, &'a Reference),
    Layout(Layout<'a>),
}

/// Resolves a name to its current images, one for each architecture.
pub fn find(context: Context<'_>, reference: &Reference) -> Result<BTreeMap<Arch, PlatformImage>, Error> {
    let source = match &reference.place {
        Place::Registry { .. } => Source::Registry(context, reference),
        Place::Layout(dir) => Source::Layout(Layout::Dir(dir)),
        Place::Archive { path, form } => {
            let contents = archive::read(path, context.cancel)?;
            match form {
                Form::Oci => Source::Layout(Layout::Archive(contents)),
                Form::Docker => {
                    let found = layout::saved(&contents, reference)?;
                    return Ok(BTreeMap::from([(found.configuration.arch, found)]));
                }
            }
        }
    };
    let (url, bytes) = match &source {
        Source::Registry(..) => {
            let url = manifest_url(reference, &reference.wanted());
            let bytes = ask(context, reference, &url)?;
            (url, bytes)
        }
        Source::Layout(layout) => layout.named(reference)?,
    };
    let digest = Digest::of(&bytes);
    if let Some(expected) = reference.digest.filter(|expected| *expected != digest) {
        return Err(Error::Digest { url, expected, got: digest });
    }
    match document(&url, &bytes)? {
        Document::Manifest { config, layers } => {
            let found = image_of(&source, digest, config, layers, Arch::host())?;
            Ok(BTreeMap::from([(found.configuration.arch, found)]))
        }
        Document::Artifact(what) => Err(Error::Document { url, what }),
        Document::Index(entries) => of_index(&source, &url, entries),
    }
}

/// Reads the images of an index. Those for another architecture may be missing, because `docker save` leaves them out.
fn of_index(source: &Source<'_>, index: &str, entries: Vec<(Option<Arch>, Pointer)>) -> Result<BTreeMap<Arch, PlatformImage>, Error> {
    let mut images = BTreeMap::new();
    let mut missing = None;
    let mut asked = 0;
    for (arch, entry) in entries {
        // An index is sorted, so the best image for an architecture comes first.
        if arch.is_some_and(|arch| images.contains_key(&arch)) {
            continue;
        }
        asked += 1;
        if asked > MAX_MANIFESTS {
            let what = format!("none of the first {MAX_MANIFESTS} entries for an architecture is an image");
            return Err(Error::Document { url: index.to_owned(), what });
        }
        match of_entry(source, arch, &entry) {
            Ok(None) => {}
            Ok(Some(found)) => drop(images.entry(found.configuration.arch).or_insert(found)),
            Err(error) if error.is_no_image() && arch != Some(Arch::host()) => drop(missing.get_or_insert(error)),
            Err(error) => return Err(error),
        }
    }
    match (images.is_empty(), missing) {
        (false, _) => Ok(images),
        (true, Some(error)) => Err(error),
        (true, None) => Err(Error::Document { url: index.to_owned(), what: "it has no image for linux on amd64 or arm64".to_owned() }),
    }
}

/// Reads an image of an index; `None` for an entry that is not an image.
fn of_entry(source: &Source<'_>, arch: Option<Arch>, entry: &Pointer) -> Result<Option<PlatformImage>, Error> {
    let (url, bytes) = part(source, entry, Part::Manifest)?;
    match document(&url, &bytes)? {
        Document::Manifest { config, layers } => image_of(source, entry.digest, config, layers, arch.unwrap_or_else(Arch::host)).map(Some),
        Document::Artifact(_) | Document::Index(_) => Ok(None),
    }
}

/// Returns a function from digests to the addresses of blobs; authenticates to the registry first.
pub fn blobs(context: Context<'_>, reference: &Reference, manifest: Digest) -> Result<impl Fn(Digest) -> String, Error> {
    if let Place::Registry { .. } = &reference.place {
        ask(context, reference, &manifest_url(reference, &format!("sha256:{manifest}")))?;
    }
    let place = reference.place.clone();
    Ok(move |digest| blob_url(&place, digest))
}

/// Imports pinned layers of an archive into the downloads directory; other layers are downloaded.
pub fn take(context: Context<'_>, reference: &Reference, dir: &Path, wanted: &[Request]) -> Result<(), Error> {
    let Place::Archive { path, .. } = &reference.place else { return Ok(()) };
    let missing = archive::deposit(path, dir, wanted, context.cancel)?;
    match missing.first() {
        None => Ok(()),
        Some(request) => {
            let what = format!("it does not have {} any more, as it was locked", request.name);
            Err(Error::Document { url: path.display().to_string(), what })
        }
    }
}

fn image_of(source: &Source<'_>, manifest: Digest, config: Pointer, layers: Vec<Pointer>, default: Arch) -> Result<PlatformImage, Error> {
    let (url, bytes) = part(source, &config, Part::Blob)?;
    let configuration = manifest::configuration(&bytes, default).map_err(|what| Error::Document { url: url.clone(), what })?;
    if configuration.diff_ids.len() != layers.len() {
        let what = format!("it names {} layers, and its manifest {}", configuration.diff_ids.len(), layers.len());
        return Err(Error::Document { url, what });
    }
    if let Source::Layout(layout) = source {
        layers.iter().try_for_each(|layer| layout.has(layer))?;
    }
    Ok(PlatformImage { manifest, configuration, layers })
}

fn document(url: &str, bytes: &[u8]) -> Result<Document, Error> {
    manifest::document(bytes).map_err(|what| Error::Document { url: url.to_owned(), what })
}

/// The kind of a part: registries serve manifests under another path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Manifest,
    Blob,
}

/// Reads a small part of an image, and verifies its digest and size.
fn part(source: &Source<'_>, pointer: &Pointer, kind: Part) -> Result<(String, Vec<u8>), Error> {
    let (url, bytes) = match source {
        Source::Registry(context, reference) => {
            let url = match kind {
                Part::Manifest => manifest_url(reference, &format!("sha256:{}", pointer.digest)),
                Part::Blob => blob_url(&reference.place, pointer.digest),
            };
            let bytes = ask(*context, reference, &url)?;
            (url, bytes)
        }
        Source::Layout(layout) => layout.document(&layout::blob(pointer.digest))?,
    };
    let got = Digest::of(&bytes);
    match got == pointer.digest && bytes.len() as u64 == pointer.size {
        true => Ok((url, bytes)),
        false => Err(Error::Digest { url, expected: pointer.digest, got }),
    }
}

/// Requests a document from a registry; authenticates if asked to.
fn ask(context: Context<'_>, reference: &Reference, url: &str) -> Result<Vec<u8>, Error> {
    let ask =
        || context.transport.ask(Get { url, accept: ACCEPT, pass: None, named_by: None, max_bytes: MAX_DOCUMENT_BYTES }, context.cancel);
    let mut answer = ask()?;
    if answer.status == 401
        && let Some(challenge) = answer.challenge.take()
    {
        // A challenge from a server that the registry redirected to does not count: it could name a token service of its own and would
        // receive the registry's login.
        if let Some(origin) = answer.elsewhere {
            return Err(Error::Elsewhere { url: url.to_owned(), origin: brief(&origin) });
        }
        let pass = login::pass(context, reference, url, &challenge)?;
        context.transport.show(&pass.prefix, pass.value);
        answer = ask()?;
    }
    accepted(url, answer)
}

fn manifest_url(reference: &Reference, wanted: &str) -> String {
    format!("{}/manifests/{wanted}", base(&reference.place))
}

fn blob_url(place: &Place, digest: Digest) -> String {
    match place {
        Place::Registry { .. } => format!("{}/blobs/sha256:{digest}", base(place)),
        Place::Layout(_) | Place::Archive { .. } => format!("{}/{}", base(place), layout::blob(digest)),
    }
}
