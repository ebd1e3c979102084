//! Images in an OCI layout (a directory or an archive), and in the output of `docker save`.

use std::fs;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex};
use silo_store::digest::Digest;
use silo_store::read_limited;

use silo_base::system::Arch;
use silo_model::oci::docker;
use silo_model::oci::manifest::{self, MAX_DOCUMENT_BYTES, Pointer};
use silo_model::oci::reference::Reference;

use super::archive::Contents;
use super::error::Error;
use super::request::PlatformImage;

/// The annotation with the name of an image in a layout.
pub const NAME: &str = "org.opencontainers.image.ref.name";

/// The place of a layout.
pub enum Layout<'a> {
    /// A directory.
    Dir(&'a Path),
    /// An archive.
    Archive(Contents),
}

impl Layout<'_> {
    /// Reads a document; returns it with its name for messages.
    pub fn document(&self, name: &str) -> Result<(String, Vec<u8>), Error> {
        match self {
            Layout::Dir(dir) => {
                let path = dir.join(name);
                Ok((path.display().to_string(), read(&path)?))
            }
            Layout::Archive(contents) => contents.document(name).map(|(url, text)| (url, text.to_vec())),
        }
    }

    /// Finds the manifest or index with a given name in the layout.
    pub fn named(&self, reference: &Reference) -> Result<(String, Vec<u8>), Error> {
        let (url, bytes) = self.document("index.json")?;
        let wrong = |what: String| Error::Document { url: url.clone(), what };
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let name = |entry: &Descriptor| entry.annotations().as_ref().and_then(|all| all.get(NAME).cloned());
        let entries = index.manifests();
        let wanted = reference.wanted();
        let fits = |entry: &&Descriptor| match (&reference.digest, &reference.tag) {
            (Some(_), _) => entry.digest().to_string() == wanted,
            (None, Some(tag)) => name(entry).as_ref() == Some(tag),
            (None, None) => entries.len() == 1 || name(entry).as_deref() == Some("latest"),
        };
        // Several entries may share a name, one for each platform.
        let is_foreign = |entry: &&Descriptor| {
            entry.platform().as_ref().is_some_and(|platform| platform.architecture().to_string() != Arch::host().name())
        };
        let entry = entries.iter().filter(fits).min_by_key(is_foreign).ok_or_else(|| {
            let names: Vec<String> = entries.iter().filter_map(name).collect();
            wrong(format!("it has no \"{wanted}\"; there are: {}", names.join(", ").escape_debug()))
        })?;
        let digest = manifest::digest(entry.digest().as_ref()).map_err(wrong)?;
        let (url, bytes) = self.document(&blob(digest))?;
        match Digest::of(&bytes) {
            got if got == digest => Ok((url, bytes)),
            got => Err(Error::Digest { url, expected: digest, got }),
        }
    }

    /// Checks that a layer is present and has the size in the manifest.
    pub fn has(&self, layer: &Pointer) -> Result<(), Error> {
        let name = blob(layer.digest);
        let (url, size) = match self {
            Layout::Dir(dir) => {
                let path = dir.join(&name);
                let facts = fs::metadata(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
                (path.display().to_string(), facts.len())
            }
            Layout::Archive(contents) => {
                let part = contents.part(&name).ok_or_else(|| contents.missing(&name))?;
                (format!("{}: {name}", contents.place()), part.size)
            }
        };
        match size == layer.size {
            true => Ok(()),
            false => Err(Error::Document { url, what: format!("it has {size} bytes, and its manifest says {}", layer.size) }),
        }
    }
}

/// Returns the path of a blob in a layout.
pub fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// Finds an image in the output of `docker save`. It has no manifest with a digest, so the configuration's digest identifies it, as in
/// Docker.
pub fn saved(contents: &Contents, reference: &Reference) -> Result<PlatformImage, Error> {
    let (url, bytes) = contents.document("manifest.json")?;
    let wrong = |what: String| Error::Document { url: url.clone(), what };
    let images = docker::list(bytes).map_err(wrong)?;
    let image = docker::choose(&images, reference.tag.as_deref()).map_err(wrong)?;
    let (url, bytes) = contents.document(&image.config)?;
    let id = Digest::of(bytes);
    // Docker and compatible programs name a configuration by its digest.
    let stem = image.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    for expected in Digest::parse(stem).ok().into_iter().chain(reference.digest) {
        if expected != id {
            return Err(Error::Digest { url, expected, got: id });
        }
    }
    let configuration = manifest::configuration(bytes, Arch::host()).map_err(|what| Error::Document { url: url.clone(), what })?;
    if configuration.diff_ids.len() != image.layers.len() {
        let what = format!("it names {} layers, and manifest.json {}", configuration.diff_ids.len(), image.layers.len());
        return Err(Error::Document { url, what });
    }
    let layer = |name: &String| {
        let part = contents.part(name).ok_or_else(|| contents.missing(name))?;
        Ok(Pointer { digest: part.digest, size: part.size })
    };
    let layers = image.layers.iter().map(layer).collect::<Result<_, Error>>()?;
    Ok(PlatformImage { manifest: id, configuration, layers })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_limited::read(path, MAX_DOCUMENT_BYTES).map_err(|source| Error::Read { path: path.to_owned(), source })
}
