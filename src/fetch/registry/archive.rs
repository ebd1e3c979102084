//! An archive of images: the tar of an OCI layout, or the output of `docker save`, plain or compressed.
//!
//! No entry is unpacked to its name. The archive is read twice from start to end: once to index it (sizes, digests, small documents), and
//! once more to import the needed layers into the downloads directory, each under its digest. Names only serve as references within the
//! archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use silo_store::digest::{Digest, Hasher};
use silo_store::path::LayerPath;

use crate::download::Request;
use crate::error::Error as FetchError;
use crate::import;
use crate::unpack::compressed;
use crate::unpack::entries::{self, Entry, Kind, plain};
use silo_model::oci::manifest::MAX_DOCUMENT_BYTES;

use super::error::Error;

/// The most entries. An image of 512 layers has 2,000 in Docker's older format, and an archive may hold several images.
const MAX_ENTRIES: usize = 50_000;
/// The longest name; known programs write at most 71 bytes.
const MAX_NAME_BYTES: usize = 255;
/// The most bytes of all documents together, since they are held in memory.
const MAX_DOCUMENTS_BYTES: u64 = 64 << 20;
/// Bytes of one read.
const CHUNK_BYTES: usize = 256 << 10;
/// The directory of a layout's blobs; each file there is named by its digest.
const BLOBS: &str = "blobs/sha256/";

/// The index of an archive.
pub struct Contents {
    path: PathBuf,
    files: BTreeMap<String, Part>,
    /// Links: Docker writes a repeated layer as a link.
    links: BTreeMap<String, String>,
}

/// One file of the archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The digest of its stored bytes.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// The bytes, if it may be a document.
    text: Option<Vec<u8>>,
}

/// Indexes an archive.
pub fn read(path: &Path, cancel: &AtomicBool) -> Result<Contents, Error> {
    let mut contents = Contents { path: path.to_owned(), files: BTreeMap::new(), links: BTreeMap::new() };
    let (mut held, mut count) = (0, 0);
    each(path, cancel, |name, entry| {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(wrong(path, &format!("it has more than {MAX_ENTRIES} entries")));
        }
        let known = contents.files.contains_key(&name) || contents.links.contains_key(&name);
        match entry.kind {
            Kind::Dir => return Ok(()),
            _ if known => return Err(wrong(path, &format!("{} is there twice", name.escape_debug()))),
            Kind::File => {
                let part = hashed(path, entry, MAX_DOCUMENTS_BYTES - held, cancel)?;
                held += part.text.as_ref().map_or(0, |text| text.len() as u64);
                if let Some(hex) = name.strip_prefix(BLOBS)
                    && hex != part.digest.to_string()
                {
                    let expected =
                        Digest::parse(hex).map_err(|_| wrong(path, &format!("{} is named by no digest", name.escape_debug())))?;
                    return Err(Error::Digest { url: describe(path, &name), expected, got: part.digest });
                }
                contents.files.insert(name, part);
            }
            kind @ (Kind::Symlink | Kind::Link) => {
                let target = std::mem::take(&mut entry.link);
                let base = if kind == Kind::Symlink { name.rsplit_once('/').map_or("", |(dir, _)| dir) } else { "" };
                let to = below(base, &target);
                let to =
                    to.ok_or_else(|| wrong(path, &format!("{} is a symlink or hard link to outside the archive", name.escape_debug())))?;
                contents.links.insert(name, to);
            }
            Kind::Char | Kind::Block | Kind::Pipe => {
                return Err(wrong(path, &format!("{} is a device node or pipe, which no image needs", name.escape_debug())));
            }
        }
        Ok(())
    })?;
    Ok(contents)
}

impl Contents {
    /// Returns a file; follows one link.
    pub fn part(&self, name: &str) -> Option<&Part> {
        let name = plain(name.as_bytes()).ok()?.and_then(|name| String::from_utf8(name).ok())?;
        self.files.get(&name).or_else(|| self.files.get(self.links.get(&name)?))
    }

    /// Returns a document, with its name for messages.
    pub fn document(&self, name: &str) -> Result<(String, &[u8]), Error> {
        let part = self.part(name).ok_or_else(|| self.missing(name))?;
        let text = part.text.as_deref().ok_or_else(|| wrong(&self.path, &format!("{} is not a document", name.escape_debug())))?;
        Ok((describe(&self.path, name), text))
    }

    /// Returns the error for a missing part.
    pub fn missing(&self, name: &str) -> Error {
        Error::Absent { place: self.place(), name: name.escape_debug().to_string() }
    }

    /// Returns the name of the archive for messages.
    pub fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// Imports the pinned files into the downloads directory, by their digests; returns the requests that the archive lacks.
pub fn deposit<'a>(path: &Path, dir: &Path, wanted: &'a [Request], cancel: &AtomicBool) -> Result<Vec<&'a Request>, Error> {
    let contents = read(path, cancel)?;
    let of = |request: &&Request| contents.files.iter().find(|(_, part)| *part.digest.as_bytes() == request.sha256);
    let mut names: BTreeMap<&String, &Request> = wanted.iter().filter_map(|request| Some((of(&request)?.0, request))).collect();
    let missing = wanted.iter().filter(|request| of(request).is_none()).collect();
    each(path, cancel, |name, entry| {
        match names.remove(&name) {
            // The digest detects changes since the first pass.
            Some(request) => Ok(import::deposit(dir, request, entry, &describe(path, &name), cancel)?),
            None => Ok(()),
        }
    })?;
    Ok(missing)
}

/// Calls `act` for each entry of an archive, after checking its name.
fn each(path: &Path, cancel: &AtomicBool, mut act: impl FnMut(String, &mut Entry<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() {
        return Err(wrong(path, "it is not a file"));
    }
    let mut bytes = compressed::decompressed(file, facts.len()).map_err(failed)?;
    entries::each(&mut bytes, failed, |entry| {
        if cancel.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled.into());
        }
        let shown = entries::shown(&entry.path[..entry.path.len().min(MAX_NAME_BYTES)]);
        // Names never become paths on this machine, but no correct program writes a name that leaves the archive.
        if entry.path.starts_with(b"/") {
            return Err(wrong(path, &format!("{shown}: a name that begins with a slash")));
        }
        let Some(plain) = plain(&entry.path).map_err(|what| wrong(path, &format!("{shown}: {what}")))? else { return Ok(()) };
        if plain.len() > MAX_NAME_BYTES {
            return Err(wrong(path, &format!("{shown}…: a name of more than {MAX_NAME_BYTES} bytes")));
        }
        LayerPath::parse(&plain).map_err(|error| wrong(path, &error.to_string()))?;
        let name = String::from_utf8(plain).map_err(|_| wrong(path, &format!("{shown}: a name that is not UTF-8")))?;
        act(name, entry)
    })
}

/// Reads one file to its end, and keeps its bytes if it may be a document.
fn hashed(path: &Path, entry: &mut impl Read, room: u64, cancel: &AtomicBool) -> Result<Part, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let (mut hasher, mut size, mut text) = (Hasher::new(), 0_u64, Some(Vec::new()));
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(FetchError::Cancelled.into());
        }
        let count = match entry.read(&mut piece).map_err(failed)? {
            0 => break,
            count => &piece[..count],
        };
        hasher.update(count);
        if size == 0 && !count.trim_ascii_start().starts_with(b"{") && !count.trim_ascii_start().starts_with(b"[") {
            text = None;
        }
        size += count.len() as u64;
        match &mut text {
            Some(text) if size <= MAX_DOCUMENT_BYTES => text.extend_from_slice(count),
            text => *text = None,
        }
        if text.is_some() && size > room {
            return Err(wrong(path, &format!("its documents have more than {MAX_DOCUMENTS_BYTES} bytes")));
        }
    }
    Ok(Part { digest: hasher.finish(), size, text })
}

/// Resolves a link's target in a directory of the archive; `None` if it leaves the archive.
fn below(base: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok().filter(|target| !target.starts_with('/'))?;
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn describe(path: &Path, name: &str) -> String {
    format!("{}: {}", path.display(), name.escape_debug())
}

fn wrong(path: &Path, what: &str) -> Error {
    Error::Document { url: path.display().to_string(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        for (base, target, expect) in [
            ("a", "../b/layer.tar", Some("b/layer.tar")),
            ("", "b.tar", Some("b.tar")),
            ("a/b", ".././c", Some("a/c")),
            ("a", "../../b", None),
            ("", "/etc/passwd", None),
        ] {
            assert_eq!(below(base, target.as_bytes()).as_deref(), expect, "{base} {target}");
        }
    }

    #[test]
    fn documents_are_held_and_the_rest_is_hashed() {
        let never = AtomicBool::new(false);
        let part = |text: &[u8]| hashed(Path::new("x"), &mut &*text, 100, &never);
        assert_eq!(part(b" {}").expect("read").text.as_deref(), Some(&b" {}"[..]));
        let layer = part(&[0; 1000]).expect("read");
        assert_eq!((layer.text, layer.size, layer.digest), (None, 1000, Digest::of(&[0; 1000])));
        assert!(part(&b"[".repeat(101)).expect_err("too much").to_string().contains("documents have more"));
    }
}
