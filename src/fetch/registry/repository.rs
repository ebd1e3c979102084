//! A repository to read from and to write to: manifests by tag and digest, blobs by digest, and the manifests about a manifest.
//!
//! It is in a registry, in a directory, or on a static web server; the last two are OCI layouts, and a web server cannot be written to. Every
//! document is verified by its digest, except one that a tag names, which the caller must verify otherwise.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use silo_store::digest::Digest;

use silo_model::oci::artifact::{self, Document, Entry};
use silo_model::oci::kept_index::KeptIndex;
use silo_model::oci::location::Location;
use silo_model::oci::manifest::{ACCEPT, MAX_DOCUMENT_BYTES, Pointer};
use silo_model::oci::{self};

use crate::exchange::{Method, Request};
use crate::retry::RetryPolicy;

use super::error::Error;
use super::layout::{NAME, blob};
use super::request::Context;
use super::session::{Session, refused};
use super::{layout_writer, upload};

pub use super::session::{Bytes, Moved};

/// The most bytes of an answer without a document.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// The most manifests of a web server's index that are read to find those about an image.
const MAX_COPIED: usize = 64;
/// Attempts to add a manifest to an index that others change at the same time.
pub const INDEX_ATTEMPTS: u32 = 4;

/// The start of the tag of an image that has the layer of a derivation.
pub const STEP: &str = "step-";
/// The annotation in a layout's index with the derivations of an image's layers.
const STEPS: &str = "vnd.silo.steps";
/// Characters of a derivation in that annotation: a large index is read as a whole.
const SHORT_CHARS: usize = 16;

/// The most bytes of a blob for which no request asks whether it is there. The request that begins its upload offers it from the repository
/// itself, so a registry with the blob takes it from there. Registries that ignore the offer get such a blob again.
const MAX_UNASKED_BYTES: u64 = 1 << 20;

/// Tags of one page of a list.
const TAGS_A_PAGE: usize = 1000;
/// The most tags of a repository; an arbitrary limit, far above real ones.
const MAX_TAGS: usize = 100_000;

/// A repository.
pub struct Repository<'a> {
    session: Session<'a>,
    /// The entries of a layout's index, read once to find single layers.
    named: OnceLock<Vec<Entry>>,
}

impl<'a> Repository<'a> {
    /// Returns the repository at a location; asks nothing yet.
    pub fn new(context: Context<'a>, location: Location) -> Repository<'a> {
        Repository { session: Session::new(context, location), named: OnceLock::new() }
    }

    /// Returns the location.
    pub fn location(&self) -> &Location {
        &self.session.location
    }

    /// Returns the timeouts and retries of its requests.
    pub fn patience(&self) -> RetryPolicy {
        self.session.context.transport.patience()
    }

    /// Returns the bytes of the manifest or index with a tag, if there is one.
    pub fn tagged(&self, tag: &str) -> Result<Option<Vec<u8>>, Error> {
        if let Location::Registry { .. } = &self.session.location {
            return self.manifest_at(tag);
        }
        let index = self.entries()?;
        let Some(entry) = index.iter().find(|entry| entry.annotations.get(NAME).map(String::as_str) == Some(tag)) else { return Ok(None) };
        // A named document that is missing is a fault, and not the same as a missing name.
        let missing =
            || Error::Absent { place: self.session.location.to_string(), name: format!("sha256:{}, which is {tag}", entry.pointer.digest) };
        Ok(Some(self.manifest(entry.pointer.digest)?.ok_or_else(missing)?))
    }

    /// Returns the manifest of an image that has the layer of a derivation: one with the tag `step-<derivation>`, or one that the index of
    /// a layout says to have it. Only the signed contents of the image prove that.
    pub fn with_step(&self, derivation: Digest) -> Result<Option<Vec<u8>>, Error> {
        if let Location::Registry { .. } = &self.session.location {
            return self.manifest_at(&step_tag(derivation));
        }
        let known = match self.named.get() {
            Some(known) => known,
            None => {
                let read = self.entries()?;
                self.named.get_or_init(|| read)
            }
        };
        let short = short(derivation);
        let has = |entry: &&Entry| entry.annotations.get(STEPS).is_some_and(|steps| steps.split(',').any(|step| step == short));
        // The last one is likely the newest.
        known.iter().rev().find(has).map_or(Ok(None), |entry| self.manifest(entry.pointer.digest))
    }

    /// Returns true if single layers are found by tags of their own. The index of a layout names them at the image.
    pub fn has_step_tags(&self) -> bool {
        matches!(self.session.location, Location::Registry { .. })
    }

    /// Writes the manifest of an image, gives it a tag, and lists the derivations of its layers if it is in a layout.
    pub fn put_image_tag(&self, tag: &str, manifest: &[u8], steps: &BTreeSet<Digest>) -> Result<(), Error> {
        let Location::Directory(dir) = &self.session.location else { return self.put_tag(tag, oci::MANIFEST, manifest) };
        layout_writer::put_blob(dir, Digest::of(manifest), &mut &manifest[..])?;
        let mut entry = Entry { artifact_type: None, ..Entry::of_artifact("", manifest) };
        if !steps.is_empty() {
            let all: Vec<String> = steps.iter().map(|step| short(*step)).collect();
            entry.annotations.insert(STEPS.to_owned(), all.join(","));
        }
        layout_writer::set_name(dir, tag, entry)
    }

    /// Returns the entries of a layout's index; a registry has none.
    fn entries(&self) -> Result<Vec<Entry>, Error> {
        match &self.session.location {
            Location::Registry { .. } => Ok(Vec::new()),
            Location::Directory(dir) => layout_writer::entries(dir),
            Location::Web(url) => {
                let url = format!("{url}/{}", layout_writer::INDEX);
                self.get(&url, MAX_DOCUMENT_BYTES)?.map_or(Ok(Vec::new()), |bytes| layout_writer::index(&url, &bytes))
            }
        }
    }

    /// Returns the bytes of a manifest or index, if it is there.
    pub fn manifest(&self, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
        let bytes = match &self.session.location {
            Location::Registry { .. } => self.manifest_at(&format!("sha256:{digest}"))?,
            Location::Directory(_) | Location::Web(_) => self.blob_of_layout(digest, MAX_DOCUMENT_BYTES)?,
        };
        self.checked(digest, bytes)
    }

    /// Returns a small blob, if it is there; a longer one than `max_bytes` is an error.
    pub fn blob(&self, digest: Digest, max_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
        let bytes = match &self.session.location {
            Location::Registry { .. } => self.get(&self.blob_url(digest), max_bytes)?,
            Location::Directory(_) | Location::Web(_) => self.blob_of_layout(digest, max_bytes)?,
        };
        self.checked(digest, bytes)
    }

    /// Returns the address of a blob, for a download.
    pub fn blob_url(&self, digest: Digest) -> String {
        match &self.session.location {
            Location::Registry { .. } => format!("{}/blobs/sha256:{digest}", self.session.base()),
            Location::Directory(dir) => dir.join(blob(digest)).display().to_string(),
            Location::Web(url) => format!("{url}/{}", blob(digest)),
        }
    }

    /// Lists the manifests about a manifest: by the registry's own list, else by the tag of registries without one.
    pub fn referrers(&self, digest: Digest) -> Result<Vec<Entry>, Error> {
        if let Location::Registry { .. } = &self.session.location {
            let url = format!("{}/referrers/sha256:{digest}", self.session.base());
            let reply = self.session.call(&Request { accept: Some(oci::INDEX), ..Request::new(Method::Get, &url, MAX_DOCUMENT_BYTES) })?;
            if reply.status == 200
                && let Ok(document) = artifact::read(&reply.bytes)
            {
                return Ok(document.manifests);
            }
        }
        let tag = fallback(digest);
        let mut listed = match self.tagged(&tag)? {
            Some(bytes) => self.document(&tag, &bytes)?.manifests,
            None => Vec::new(),
        };
        // Other programs, such as oras, copy the manifests about an image into a layout, and list them in its index only.
        let most = if matches!(self.session.location, Location::Web(_)) { MAX_COPIED } else { usize::MAX };
        let copied = self.entries()?.into_iter().filter(|entry| entry.artifact_type.is_some()).take(most);
        for entry in copied {
            let is_listed = listed.iter().any(|other| other.pointer.digest == entry.pointer.digest);
            let is_about = |bytes: Vec<u8>| artifact::read(&bytes).is_ok_and(|document| document.subject == Some(digest));
            if !is_listed && self.manifest(entry.pointer.digest)?.is_some_and(is_about) {
                listed.push(entry);
            }
        }
        Ok(listed)
    }

    /// Returns true if a blob is there.
    pub fn has_blob(&self, digest: Digest) -> Result<bool, Error> {
        match &self.session.location {
            Location::Registry { .. } => self.is_there(&self.blob_url(digest)),
            Location::Directory(dir) => layout_writer::has_blob(dir, digest),
            Location::Web(url) => Err(not_written(url)),
        }
    }

    /// Writes a blob, unless it is there; the registry may take it from the repository `from`. Reports the sent bytes to `progress`.
    pub fn put_blob(&self, pointer: Pointer, bytes: &Bytes<'_>, from: Option<&str>, progress: &dyn Fn(u64)) -> Result<Moved, Error> {
        if let Location::Registry { repository, .. } = &self.session.location
            && from.is_none()
            && pointer.size <= MAX_UNASKED_BYTES
        {
            match upload::upload(&self.session, pointer, bytes, Some(repository), progress) {
                Ok(Moved::Mounted) => return Ok(Moved::Present),
                // A registry that takes no blob from the repository itself is asked first.
                Err(Error::Status { status: 400 | 404 | 405, .. }) => {}
                done => return done,
            }
        }
        if self.has_blob(pointer.digest)? { Ok(Moved::Present) } else { self.send_blob(pointer, bytes, from, progress) }
    }

    /// Writes a blob that is not there; the registry may take it from the repository `from`. Reports the sent bytes to `progress`.
    pub fn send_blob(&self, pointer: Pointer, bytes: &Bytes<'_>, from: Option<&str>, progress: &dyn Fn(u64)) -> Result<Moved, Error> {
        match &self.session.location {
            Location::Registry { .. } => upload::upload(&self.session, pointer, bytes, from, progress),
            Location::Directory(dir) => {
                match bytes {
                    Bytes::Here(bytes) => layout_writer::put_blob(dir, pointer.digest, &mut &bytes[..])?,
                    Bytes::File(path) => layout_writer::put_blob(dir, pointer.digest, &mut open(path)?)?,
                }
                progress(pointer.size);
                Ok(Moved::Sent)
            }
            Location::Web(url) => Err(not_written(url)),
        }
    }

    /// Writes a manifest or index by its digest.
    pub fn put_manifest(&self, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        self.put_manifest_at(&format!("sha256:{}", Digest::of(bytes)), media_type, bytes).map(drop)
    }

    /// Writes a manifest or index, and gives it a tag.
    pub fn put_tag(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        match &self.session.location {
            Location::Registry { .. } => self.put_manifest_at(tag, media_type, bytes).map(drop),
            Location::Directory(dir) => {
                layout_writer::put_blob(dir, Digest::of(bytes), &mut &bytes[..])?;
                let pointer = Pointer { digest: Digest::of(bytes), size: bytes.len() as u64 };
                let entry = Entry { media_type: media_type.to_owned(), artifact_type: None, ..Entry::of_artifact("", bytes) };
                layout_writer::set_name(dir, tag, Entry { pointer, ..entry })
            }
            Location::Web(url) => Err(not_written(url)),
        }
    }

    /// Writes a manifest about another one; returns true if the registry lists it with that by itself.
    pub fn put_about(&self, bytes: &[u8]) -> Result<bool, Error> {
        self.put_manifest_at(&format!("sha256:{}", Digest::of(bytes)), oci::MANIFEST, bytes)
    }

    /// Lists manifests with the one that they are about, for repositories that do not do it by themselves.
    pub fn list_about(&self, subject: Digest, entries: &[Entry]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let tag = fallback(subject);
        for _ in 0..INDEX_ATTEMPTS {
            let wrong = |what| Error::Document { url: format!("{}: {tag}", self.session.location), what };
            let mut all = KeptIndex::read(self.tagged(&tag)?.as_deref()).map_err(wrong)?;
            let listed: BTreeSet<Digest> = all.entries().map(|entry| entry.pointer.digest).collect();
            let missing: Vec<&Entry> = entries.iter().filter(|entry| !listed.contains(&entry.pointer.digest)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            missing.into_iter().for_each(|entry| all.push(entry.clone()));
            // Another push may replace the index in between, so it is read again.
            self.put_tag(&tag, oci::INDEX, &all.to_bytes().map_err(wrong)?)?;
        }
        let what = format!("others change the tag {tag} all the time");
        Err(Error::Document { url: self.session.location.to_string(), what })
    }

    /// Lists the tags.
    pub fn tags(&self) -> Result<Vec<String>, Error> {
        match &self.session.location {
            Location::Registry { .. } => self.listed_tags(),
            Location::Directory(dir) => Ok(layout_writer::names(dir)?),
            Location::Web(url) => Err(not_written(url)),
        }
    }

    /// Lists the entries of a directory's index that [`tagged`](Self::tagged) does not find: without a name, or with that of an earlier
    /// entry, as images of other platforms have. A registry has none.
    pub fn further_entries(&self) -> Result<Vec<(Option<String>, Digest)>, Error> {
        let mut names = BTreeSet::new();
        let further = |mut entry: Entry| {
            let name = entry.annotations.remove(NAME);
            let is_first = name.as_ref().is_some_and(|name| names.insert(name.clone()));
            (!is_first).then_some((name, entry.pointer.digest))
        };
        Ok(self.entries()?.into_iter().filter_map(further).collect())
    }

    fn listed_tags(&self) -> Result<Vec<String>, Error> {
        let mut all: BTreeSet<String> = BTreeSet::new();
        let mut last = String::new();
        loop {
            let url = format!("{}/tags/list?n={TAGS_A_PAGE}{last}", self.session.base());
            let wrong = |what: &str| Error::Document { url: url.clone(), what: what.to_owned() };
            let Some(bytes) = self.get(&url, MAX_DOCUMENT_BYTES)? else { break };
            let page = artifact::tags(&bytes).map_err(|what| wrong(&what))?;
            last = page.last().map(|tag| format!("&last={tag}")).unwrap_or_default();
            let count = all.len();
            all.extend(page);
            // A registry that ignores `last` lists the same tags again.
            if all.len() == count {
                break;
            }
            if all.len() > MAX_TAGS {
                return Err(wrong(&format!("it has more than {MAX_TAGS} tags")));
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Removes a manifest or an index, with all its tags.
    pub fn remove(&self, digest: Digest) -> Result<(), Error> {
        match &self.session.location {
            Location::Registry { .. } => {
                let url = format!("{}/manifests/sha256:{digest}", self.session.base());
                let reply = self.session.call(&Request::new(Method::Delete, &url, MAX_ANSWER_BYTES))?;
                match reply.status {
                    200 | 202 | 204 | 404 => Ok(()),
                    _ => Err(refused(&url, &reply)),
                }
            }
            Location::Directory(dir) => layout_writer::remove_names(dir, digest),
            Location::Web(url) => Err(not_written(url)),
        }
    }

    /// Removes the blobs of a directory that nothing names, if they are older than an hour: a push writes its blobs before it names them.
    /// Registries do that by themselves. Returns the number of blobs and their bytes.
    pub fn sweep(&self, named: &BTreeSet<Digest>) -> Result<(usize, u64), Error> {
        match &self.session.location {
            Location::Registry { .. } => Ok((0, 0)),
            Location::Directory(dir) => layout_writer::sweep(dir, named),
            Location::Web(url) => Err(not_written(url)),
        }
    }

    fn put_manifest_at(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<bool, Error> {
        match &self.session.location {
            Location::Registry { .. } => {
                let url = format!("{}/manifests/{name}", self.session.base());
                let request = Request { media_type: Some(media_type), body: bytes, ..Request::new(Method::Put, &url, MAX_ANSWER_BYTES) };
                let reply = self.session.call(&request)?;
                if !matches!(reply.status, 200..=202) {
                    return Err(refused(&url, &reply));
                }
                Ok(reply.has_subject)
            }
            Location::Directory(dir) => layout_writer::put_blob(dir, Digest::of(bytes), &mut &bytes[..]).map(|()| false),
            Location::Web(url) => Err(not_written(url)),
        }
    }

    fn manifest_at(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.get(&format!("{}/manifests/{name}", self.session.base()), MAX_DOCUMENT_BYTES)
    }

    fn blob_of_layout(&self, digest: Digest, max_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
        match &self.session.location {
            Location::Directory(dir) => {
                let path = dir.join(blob(digest));
                match silo_store::read_limited::read(&path, max_bytes) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(Error::Read { path, source }),
                }
            }
            Location::Web(_) | Location::Registry { .. } => self.get(&self.blob_url(digest), max_bytes),
        }
    }

    fn checked(&self, digest: Digest, bytes: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
        match bytes {
            Some(bytes) if Digest::of(&bytes) != digest => {
                Err(Error::Digest { url: self.blob_url(digest), expected: digest, got: Digest::of(&bytes) })
            }
            bytes => Ok(bytes),
        }
    }

    fn document(&self, name: &str, bytes: &[u8]) -> Result<Document, Error> {
        let url = || format!("{}: {name}", self.session.location);
        artifact::read(bytes).map_err(|what| Error::Document { url: url(), what })
    }

    fn is_there(&self, url: &str) -> Result<bool, Error> {
        let reply = self.session.call(&Request::new(Method::Head, url, MAX_ANSWER_BYTES))?;
        match reply.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(refused(url, &reply)),
        }
    }

    /// Reads a document; `None` if there is none.
    fn get(&self, url: &str, max_bytes: u64) -> Result<Option<Vec<u8>>, Error> {
        let reply = self.session.call(&Request { accept: Some(ACCEPT), ..Request::new(Method::Get, url, max_bytes) })?;
        match reply.status {
            200 => Ok(Some(reply.bytes)),
            404 => Ok(None),
            _ => Err(refused(url, &reply)),
        }
    }
}

/// Returns the tag of an image that has the layer of a derivation.
pub fn step_tag(derivation: Digest) -> String {
    format!("{STEP}{derivation}")
}

/// Returns the start of a derivation, by which a layout's index names it. It is only a hint.
fn short(derivation: Digest) -> String {
    derivation.to_string()[..SHORT_CHARS].to_owned()
}

/// Returns the tag under which registries without a list of referrers hold one.
pub fn fallback(digest: Digest) -> String {
    format!("sha256-{digest}")
}

fn not_written(url: &str) -> Error {
    Error::Document {
        url: url.to_owned(),
        what: "a web server with files cannot be written to; push to the directory that it serves".to_owned(),
    }
}

/// Opens a file to send.
fn open(path: &std::path::Path) -> Result<std::fs::File, Error> {
    std::fs::File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
