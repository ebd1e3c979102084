//! Unpacks a layer of a foreign image into one of ours.
//!
//! The tar may be compressed, as shown by its magic bytes. It is interpreted like podman and umoci do: whiteouts become ours, a repeated
//! entry replaces the earlier one, and device nodes, pipes and the leftovers of aufs are omitted. Paths that leave the root are rejected.
//! The decompressed bytes must have the digest in the image's configuration, so a tampered download never becomes a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use silo_store::digest::{Digest, HashingReader};
use silo_store::entry::{MAX_ENTRIES, Meta, Node};
use silo_store::normal;
use silo_store::path::LayerPath;
use silo_store::stage::{Stage, StageError, Staged};

use super::compressed;
use super::differences::Differences;
use super::entries::{self, Entry, Kind, plain, shown};
use super::lower_layers::{Lower, MAX_LINKS};

/// Prefix of a whiteout's name.
const WHITEOUT: &[u8] = b".wh.";
/// Marker of an opaque directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Prefix of the private files of aufs, which Docker once used; the opaque marker also comes from there.
const AUFS: &[u8] = b".wh..wh.";
/// Directory in which aufs kept files with several names.
const AUFS_FILES: &[u8] = b".wh..wh.plnk/";
/// Temporary directory for such files during unpacking; an image with this name is rejected.
const AUFS_KEPT: &str = ".silo-aufs";
/// Limit on the sum of the extended attributes of all entries. A global header gives its attributes to each entry, and they are in memory.
const MAX_ATTRIBUTE_BYTES: u64 = 64 << 20;
/// Reason why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or decompressing failed.
    #[error("cannot read layer {layer}")]
    Read {
        /// The digest of the downloaded layer.
        layer: Digest,
        /// The cause.
        source: io::Error,
    },
    /// An entry that layers do not allow.
    #[error("layer {layer}: {path}: {what}")]
    Entry {
        /// The digest of the downloaded layer.
        layer: Digest,
        /// The entry's path, unescaped as in the archive.
        path: String,
        /// The fault.
        what: String,
    },
    /// The decompressed bytes do not have the digest in the image's configuration.
    #[error("layer {layer}: decompressed, its sha-256 is {got}, but the image has {expected}")]
    Digest {
        /// The digest of the downloaded layer.
        layer: Digest,
        /// The digest in the configuration.
        expected: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// Our layer could not be written.
    #[error("layer {layer}: {path}")]
    Stage {
        /// The digest of the downloaded layer.
        layer: Digest,
        /// The entry's path, unescaped as in the archive.
        path: String,
        /// The error of the store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The layer depends on lower layers, which were not given.
    #[error("layer {layer}: {path}: it needs the lower layers")]
    Lower {
        /// The digest of the downloaded layer.
        layer: Digest,
        /// The entry's path, unescaped as in the archive.
        path: String,
    },
}

/// A layer to unpack.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its digest as downloaded, for messages.
    pub layer: Digest,
    /// Its size as downloaded.
    pub size: u64,
    /// Its digest when decompressed.
    pub diff_id: Digest,
}

/// Unpacks a layer into `stage`, over the lower layers if they are given.
pub fn unpack(source: Source, from: impl Read, lower: Option<Lower<'_>>, stage: &mut Stage) -> Result<Differences, Error> {
    let failed = |error| Error::Read { layer: source.layer, source: error };
    let mut bytes = HashingReader::new(compressed::decompressed(from, source.size).map_err(failed)?);
    let mut unpacking = Unpacking {
        layer: source.layer,
        stage,
        lower,
        limit: bytes.inner().limit(),
        written: 0,
        attributes: 0,
        count: 0,
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
        is_root_opaque: false,
        aufs: BTreeMap::new(),
        differences: Differences::default(),
    };
    let walked = unpacking.walk(&mut bytes);
    if unpacking.count > MAX_ENTRIES || matches!(walked, Err(Error::Lower { .. })) {
        // Give up without reading the rest.
        return walked.map(|()| Differences::default());
    }
    // A wrong digest explains any other fault, so report it first. A decompression bomb is reported as such.
    let rest = io::copy(&mut bytes, &mut io::sink());
    if !bytes.inner().is_over() && rest.is_ok() {
        let (got, _) = bytes.finish();
        if got != source.diff_id {
            return Err(Error::Digest { layer: source.layer, expected: source.diff_id, got });
        }
    }
    walked?;
    rest.map_err(failed)?;
    unpacking.whiten()
}

struct Unpacking<'a> {
    layer: Digest,
    stage: &'a mut Stage,
    lower: Option<Lower<'a>>,
    /// Limit of the sum of its file sizes, including replaced files.
    limit: u64,
    /// Sum of file sizes so far.
    written: u64,
    /// Sum of the lengths of extended attributes so far.
    attributes: u64,
    /// Number of entries so far, including ignored ones.
    count: usize,
    /// Entries of lower layers that this layer deletes.
    whiteouts: BTreeSet<LayerPath>,
    /// Directories that hide their contents in lower layers.
    opaque: BTreeSet<LayerPath>,
    /// True if all entries of lower layers are deleted.
    is_root_opaque: bool,
    /// Files of aufs with several names, by their names in aufs.
    aufs: BTreeMap<Vec<u8>, LayerPath>,
    differences: Differences,
}

impl Unpacking<'_> {
    fn walk(&mut self, bytes: &mut dyn Read) -> Result<(), Error> {
        let layer = self.layer;
        entries::each(bytes, |source| Error::Read { layer, source }, |entry| self.entry(entry))
    }

    fn entry(&mut self, entry: &mut Entry<'_>) -> Result<(), Error> {
        let spelled = entry.path.clone();
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(self.wrong(&spelled, &format!("the layer has more than {MAX_ENTRIES} entries")));
        }
        let Some(path) = plain(&spelled).map_err(|what| self.wrong(&spelled, what))? else { return Ok(()) };
        let (dir, name) = split(&path);
        if name == OPAQUE {
            return self.hide(&spelled, dir);
        }
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(AUFS)) {
            return self.keep_aufs(&spelled, &path, entry);
        }
        if path.split(|byte| *byte == b'/').next() == Some(AUFS_KEPT.as_bytes()) {
            return Err(self.wrong(&spelled, "a name reserved by silo"));
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            let gone = self.place(&spelled, dir, gone)?;
            self.whiteouts.insert(gone);
            return Ok(());
        }
        let place = self.place(&spelled, dir, name)?;
        self.add(&spelled, &place, entry)
    }

    /// Adds an entry at its resolved path.
    fn add(&mut self, spelled: &[u8], place: &LayerPath, entry: &mut Entry<'_>) -> Result<(), Error> {
        let meta = self.meta(entry);
        let attributes = meta.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64);
        self.attributes = self.attributes.saturating_add(attributes.sum());
        if self.attributes > MAX_ATTRIBUTE_BYTES {
            return Err(self.wrong(spelled, &format!("the layer has more than {MAX_ATTRIBUTE_BYTES} bytes of extended attributes")));
        }
        let staged = |error| staged(self.layer, spelled, error);
        let is_dir = entry.kind == Kind::Dir;
        match self.stage.holds(place) {
            None => {}
            Some(Staged::Dir | Staged::ImpliedDir) if is_dir => {}
            // Replacing a hard link to itself would remove its target.
            Some(_) if entry.kind == Kind::Link && self.target(spelled, &entry.link)? == *place => return Ok(()),
            Some(_) => self.stage.remove(place).map_err(staged)?,
        }
        match entry.kind {
            Kind::Dir => self.stage.add_dir(place, &meta).map_err(staged),
            Kind::File => {
                let left = self.limit.saturating_sub(self.written);
                if entry.size > left {
                    return Err(self.wrong(spelled, &format!("the layer unpacks to more than {} bytes", self.limit)));
                }
                self.written += entry.size;
                self.stage.add_file(place, &meta, entry, left).map_err(staged)
            }
            Kind::Symlink => self.stage.add_symlink(place, &meta, &entry.link).map_err(staged),
            Kind::Link => self.link(spelled, place, &entry.link, &meta),
            Kind::Char | Kind::Block | Kind::Pipe => {
                self.differences.leave_out(place.as_bytes());
                // The entry of lower layers at this path is replaced in any case.
                self.whiteouts.insert(place.clone());
                Ok(())
            }
        }
    }

    /// Adds a hard link.
    fn link(&mut self, spelled: &[u8], place: &LayerPath, target: &[u8], meta: &Meta) -> Result<(), Error> {
        let to = self.target(spelled, target)?;
        let failed = |error| staged(self.layer, spelled, error);
        match self.stage.holds(&to) {
            Some(Staged::File) => return self.stage.add_hardlink(place, &to).map_err(failed),
            Some(Staged::Symlink(target)) => {
                let target = target.to_vec();
                return self.stage.add_symlink(place, meta, &target).map_err(failed);
            }
            Some(Staged::Dir | Staged::ImpliedDir) => return Err(self.wrong(spelled, "a hard link to a directory")),
            Some(Staged::Whiteout) | None => {}
        }
        let Some(lower) = self.lower else { return Err(self.needs_lower(spelled)) };
        let found = lower.get(&to).filter(|_| !self.is_gone(&to));
        match found.map(|entry| &entry.node) {
            Some(Node::File { .. } | Node::Hardlink { .. }) => {
                let file = lower.index.resolve(&to).ok_or_else(|| self.wrong(spelled, "a hard link to a missing file"))?;
                let Node::File { size, .. } = file.node else { return Err(self.wrong(spelled, "a hard link to a missing file")) };
                let left = self.limit.saturating_sub(self.written);
                if size > left {
                    return Err(self.wrong(spelled, &format!("the layer unpacks to more than {} bytes", self.limit)));
                }
                self.written += size;
                let mut from = (lower.open)(&to).map_err(|source| Error::Read { layer: self.layer, source })?;
                self.stage.add_file(place, &file.meta, &mut from, left).map_err(failed)
            }
            Some(Node::Symlink { target }) => self.stage.add_symlink(place, meta, target).map_err(failed),
            Some(Node::Dir { .. }) => Err(self.wrong(spelled, "a hard link to a directory")),
            Some(Node::Whiteout) | None => {
                Err(self.wrong(spelled, &format!("a hard link to {}, which does not exist", shown(to.as_bytes()))))
            }
        }
    }

    /// Resolves the target of a hard link.
    fn target(&self, spelled: &[u8], target: &[u8]) -> Result<LayerPath, Error> {
        let plain = plain(target).map_err(|what| self.wrong(spelled, what))?;
        let plain = plain.ok_or_else(|| self.wrong(spelled, "a hard link to the root"))?;
        if let Some(kept) = plain.strip_prefix(AUFS_FILES).and_then(|name| self.aufs.get(name)) {
            return Ok(kept.clone());
        }
        let (dir, name) = split(&plain);
        self.place(spelled, dir, name)
    }

    /// Keeps a file of aufs until the end, for later hard links to it; ignores all other entries.
    fn keep_aufs(&mut self, spelled: &[u8], path: &[u8], entry: &mut Entry<'_>) -> Result<(), Error> {
        let Some(name) = path.strip_prefix(AUFS_FILES).filter(|_| entry.kind == Kind::File) else { return Ok(()) };
        let kept = format!("{AUFS_KEPT}/{}", self.aufs.len());
        let kept = LayerPath::parse(kept.as_bytes()).map_err(|error| self.wrong(spelled, &error.to_string()))?;
        self.aufs.insert(name.to_vec(), kept.clone());
        self.add(spelled, &kept, entry)
    }

    /// Records an opaque directory.
    fn hide(&mut self, spelled: &[u8], dir: &[u8]) -> Result<(), Error> {
        if dir.is_empty() {
            self.is_root_opaque = true;
            return Ok(());
        }
        let (above, name) = split(dir);
        // A symlink to a directory is followed: the marker is a file in it.
        let place = self.place(spelled, above, name)?;
        if self.link_at(spelled, &place)?.is_none() {
            self.opaque.insert(place);
            return Ok(());
        }
        let dir = self.resolved(spelled, dir)?;
        match LayerPath::parse(&dir) {
            Ok(place) => drop(self.opaque.insert(place)),
            Err(_) if dir.is_empty() => self.is_root_opaque = true,
            Err(error) => return Err(self.wrong(spelled, &error.to_string())),
        }
        Ok(())
    }

    /// Resolves the path of `name` in a directory; symlinks are followed.
    fn place(&self, spelled: &[u8], dir: &[u8], name: &[u8]) -> Result<LayerPath, Error> {
        let dir = self.resolved(spelled, dir)?;
        let path = if dir.is_empty() { name.to_vec() } else { [&dir, &b"/"[..], name].concat() };
        LayerPath::parse(&path).map_err(|error| self.wrong(spelled, &error.to_string()))
    }

    /// Follows the symlinks in a directory's path; components that do not exist yet stay as they are.
    fn resolved(&self, spelled: &[u8], dir: &[u8]) -> Result<Vec<u8>, Error> {
        let is_plain = LayerPath::parse(dir).is_ok_and(|dir| self.stage.holds(&dir) == Some(Staged::Dir));
        if dir.is_empty() || is_plain {
            return Ok(dir.to_vec());
        }
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut todo: Vec<Vec<u8>> = dir.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            let here = LayerPath::parse(&done.join(&b'/')).map_err(|error| self.wrong(spelled, &error.to_string()))?;
            let Some(target) = self.link_at(spelled, &here)? else { continue };
            links += 1;
            if links > MAX_LINKS {
                return Err(self.wrong(spelled, "too many symlinks in its path"));
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
        }
        Ok(done.join(&b'/'))
    }

    /// Returns the target of the symlink at a path, if there is one.
    fn link_at(&self, spelled: &[u8], path: &LayerPath) -> Result<Option<&[u8]>, Error> {
        match (self.stage.holds(path), self.lower) {
            // The target may be a symlink of lower layers.
            (Some(Staged::Symlink(_)), None) => Err(self.needs_lower(spelled)),
            (Some(Staged::Symlink(target)), Some(_)) => Ok(Some(target)),
            (None, Some(lower)) if !self.is_gone(path) => match lower.index.get(path).map(|entry| &entry.node) {
                Some(Node::Symlink { target }) => Ok(Some(target)),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Returns true if this layer deletes the entry of lower layers at a path.
    fn is_gone(&self, path: &LayerPath) -> bool {
        let mut above = path.parent();
        while let Some(dir) = above {
            if self.whiteouts.contains(&dir) || self.opaque.contains(&dir) {
                return true;
            }
            above = dir.parent();
        }
        self.is_root_opaque || self.whiteouts.contains(path)
    }

    fn meta(&mut self, entry: &mut Entry<'_>) -> Meta {
        let xattrs = std::mem::take(&mut entry.xattrs);
        if entry.kind == Kind::File && !(0..=normal::MAX_MTIME_SECS).contains(&entry.mtime) {
            self.differences.times += 1;
        }
        self.differences.by_global += usize::from(entry.by_global);
        Meta { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, xattrs }
    }

    /// Adds the whiteouts. A directory of this layer at a deleted path becomes opaque instead.
    fn whiten(mut self) -> Result<Differences, Error> {
        if !self.aufs.is_empty() {
            let kept = LayerPath::parse(AUFS_KEPT.as_bytes()).map_err(|error| self.wrong(AUFS_FILES, &error.to_string()))?;
            self.stage.remove(&kept).map_err(|error| self.staged(AUFS_FILES, error))?;
        }
        self.cover_lower_files()?;
        if self.is_root_opaque {
            let Some(lower) = self.lower else { return Err(self.needs_lower(OPAQUE)) };
            self.whiteouts
                .extend(lower.index.entries().iter().filter(|entry| entry.path.parent().is_none()).map(|entry| entry.path.clone()));
        }
        for dir in std::mem::take(&mut self.opaque) {
            self.make_opaque(&dir)?;
        }
        for gone in std::mem::take(&mut self.whiteouts) {
            let failed = |error| staged(self.layer, gone.as_bytes(), error);
            match self.stage.holds(&gone) {
                None => match self.stage.add_whiteout(&gone) {
                    // The parent is no longer a directory, so there is nothing to delete.
                    Err(StageError::ParentNotDirectory { .. }) => {}
                    other => other.map_err(failed)?,
                },
                Some(Staged::Dir) => self.stage.set_opaque(&gone).map_err(failed)?,
                Some(Staged::ImpliedDir) => {
                    self.stage.add_dir(&gone, &normal::implied_dir()).map_err(failed)?;
                    self.stage.set_opaque(&gone).map_err(failed)?;
                }
                // A file at this path replaces the lower entry by itself.
                Some(Staged::File | Staged::Symlink(_) | Staged::Whiteout) => {}
            }
        }
        Ok(self.differences)
    }

    /// Adds implied directories as entries if lower layers have a file at their path.
    fn cover_lower_files(&mut self) -> Result<(), Error> {
        let Some(lower) = self.lower else { return Ok(()) };
        let is_file = |path: &LayerPath| lower.get(path).is_some_and(|entry| !matches!(entry.node, Node::Dir { .. }));
        for dir in self.stage.implied_dirs().into_iter().filter(is_file) {
            self.stage.add_dir(&dir, &normal::implied_dir()).map_err(|error| self.staged(dir.as_bytes(), error))?;
        }
        Ok(())
    }

    /// Makes a directory opaque; if only lower layers have an entry for it, uses their metadata.
    fn make_opaque(&mut self, dir: &LayerPath) -> Result<(), Error> {
        let failed = |error| staged(self.layer, dir.as_bytes(), error);
        match self.stage.holds(dir) {
            Some(Staged::Dir) => {}
            Some(Staged::File | Staged::Symlink(_) | Staged::Whiteout) => return Ok(()),
            Some(Staged::ImpliedDir) | None => {
                let Some(lower) = self.lower else { return Err(self.needs_lower(dir.as_bytes())) };
                let Some(Node::Dir { .. }) = lower.get(dir).map(|entry| &entry.node) else { return Ok(()) };
                let meta = lower.get(dir).map_or_else(normal::implied_dir, |entry| entry.meta.clone());
                match self.stage.add_dir(dir, &meta) {
                    Err(StageError::ParentNotDirectory { .. }) => return Ok(()),
                    other => other.map_err(failed)?,
                }
            }
        }
        self.stage.set_opaque(dir).map_err(failed)
    }

    fn wrong(&self, path: &[u8], what: &str) -> Error {
        Error::Entry { layer: self.layer, path: shown(path), what: what.to_owned() }
    }

    fn needs_lower(&self, path: &[u8]) -> Error {
        Error::Lower { layer: self.layer, path: shown(path) }
    }

    fn staged(&self, path: &[u8], source: StageError) -> Error {
        staged(self.layer, path, source)
    }
}

fn staged(layer: Digest, path: &[u8], source: StageError) -> Error {
    Error::Stage { layer, path: shown(path), source: Box::new(source) }
}

/// Splits a path into directory and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    }
}
