//! Finds a pushed image in a repository, and reads its contents without its layers.

use silo_store::digest::Digest;

use silo_base::system::Arch;
use silo_fetch::registry::repository::Repository;
use silo_model::oci::artifact::{self, Document};
use silo_model::oci::contents::{self, ANNOTATION, Contents};
use silo_model::oci::manifest as image;

use crate::error::Error;

/// A pushed image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest of the index that named the manifest, if there was one. A signature of either covers the contents.
    pub index: Option<Digest>,
    /// The platforms of the index.
    pub platforms: Vec<Arch>,
    /// Number of layers of the image for other programs.
    pub stacked: usize,
    /// The contents.
    pub contents: Contents,
    /// The repository and the name, for messages.
    pub place: String,
}

/// Finds an image by tag or digest.
pub fn find(from: &Repository<'_>, name: &str, digest: Option<Digest>, arch: Arch) -> Result<Found, Error> {
    let shown = digest.map_or_else(|| name.to_owned(), |digest| format!("sha256:{digest}"));
    let place = match digest {
        Some(_) => format!("{}@{shown}", from.location()),
        None => format!("{}:{name}", from.location()),
    };
    let bytes = match digest {
        Some(digest) => from.manifest(digest)?,
        None => from.tagged(name)?,
    };
    let absent = || Error::Absent { place: from.location().to_string(), name: shown.clone() };
    let bytes = bytes.ok_or_else(absent)?;
    let top = read(&place, &bytes)?;
    if top.manifests.is_empty() {
        return of_manifest(from, place, (Digest::of(&bytes), &top), None, Vec::new());
    }
    let platforms: Vec<Arch> = top.manifests.iter().filter_map(|entry| entry.arch).collect();
    let Some(entry) = top.manifests.iter().find(|entry| entry.arch == Some(arch)) else {
        let names: Vec<&str> = platforms.iter().map(|arch| arch.name()).collect();
        return Err(Error::Document { place, what: format!("it has no image for {}; there are: {}", arch.name(), names.join(", ")) });
    };
    let manifest = from
        .manifest(entry.pointer.digest)?
        .ok_or_else(|| Error::Absent { place: from.location().to_string(), name: format!("sha256:{}", entry.pointer.digest) })?;
    let document = read(&place, &manifest)?;
    of_manifest(from, place, (entry.pointer.digest, &document), Some(Digest::of(&bytes)), platforms)
}

/// Reads the contents of an image by the bytes of its manifest.
pub fn of_bytes(from: &Repository<'_>, place: String, manifest: &[u8]) -> Result<Found, Error> {
    let document = read(&place, manifest)?;
    of_manifest(from, place, (Digest::of(manifest), &document), None, Vec::new())
}

fn of_manifest(
    from: &Repository<'_>,
    place: String,
    (manifest, document): (Digest, &Document),
    index: Option<Digest>,
    platforms: Vec<Arch>,
) -> Result<Found, Error> {
    let Some(named) = document.annotations.get(ANNOTATION) else { return Err(Error::Foreign { place }) };
    let wrong = |what: String| Error::Document { place: place.clone(), what };
    let digest = image::digest(named).map_err(wrong)?;
    let bytes = from.blob(digest, contents::MAX_BYTES)?;
    let bytes = bytes.ok_or_else(|| Error::Absent { place: from.location().to_string(), name: format!("sha256:{digest}") })?;
    let contents = contents::read(&bytes).map_err(wrong)?;
    Ok(Found { manifest, index, platforms, stacked: document.layers.len(), contents, place })
}

fn read(place: &str, bytes: &[u8]) -> Result<Document, Error> {
    artifact::read(bytes).map_err(|what| Error::Document { place: place.to_owned(), what })
}
