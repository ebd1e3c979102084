//! One layer of somebody else's image into one of ours.
//!
//! The tar may be plain or compressed, as its first bytes say. It is taken as podman and umoci take it: whiteouts become ours, an
//! entry that comes again replaces the one before, and device nodes, pipes and the leftovers of aufs are left out. Names that
//! leave the root are refused. What was read must have the digest that the image's configuration states, so nothing that was
//! changed on the way becomes a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use silo_store::digest::Digest;
use silo_store::entry::{MAX_ENTRIES, Meta, Node};
use silo_store::normal;
use silo_store::path::LayerPath;
use silo_store::stage::{Stage, StageError, Staged};

use super::below::{Lower, MAX_LINKS};
use super::compressed::{self, Bounded};
use super::differences::Differences;
use super::entries::{self, Entry, Kind, plain, shown};

/// The name that a whiteout's begins with.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of all that lower layers have in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The beginning of the names that aufs, which Docker once used, kept for itself; the marker above comes from there too.
const AUFS: &[u8] = b".wh..wh.";
/// Where aufs kept the files that have several names.
const AUFS_FILES: &[u8] = b".wh..wh.plnk/";
/// Where such files are until the end; an image with a file of this name is refused.
const AUFS_KEPT: &str = ".silo-aufs";
/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or decompressing failed.
    #[error("cannot read layer {layer}")]
    Read {
        /// The layer as it is fetched.
        layer: Digest,
        /// What went wrong.
        source: io::Error,
    },
    /// An entry that no layer can hold.
    #[error("layer {layer}: {path}: {what}")]
    Entry {
        /// The layer as it is fetched.
        layer: Digest,
        /// The entry's path as the archive spells it.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The decompressed bytes are not those that the image's configuration names.
    #[error("layer {layer}: decompressed, its sha-256 is {got}, but the image says {expected}")]
    Digest {
        /// The layer as it is fetched.
        layer: Digest,
        /// What it should be.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// Our layer could not be written.
    #[error("layer {layer}: {path}")]
    Stage {
        /// The layer as it is fetched.
        layer: Digest,
        /// The entry's path as the archive spells it.
        path: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the layer means depends on those below it, which were not given.
    #[error("layer {layer}: {path}: it needs the layers below")]
    Lower {
        /// The layer as it is fetched.
        layer: Digest,
        /// The entry's path as the archive spells it.
        path: String,
    },
}

/// A layer to unpack.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its digest as it is fetched, for messages.
    pub layer: Digest,
    /// Its size as it is fetched.
    pub size: u64,
    /// Its digest when decompressed.
    pub diff_id: Digest,
}

/// Unpacks a layer into `stage`, over the layers below where they are given.
pub fn unpack(source: Source, from: impl Read, lower: Option<Lower<'_>>, stage: &mut Stage) -> Result<Differences, Error> {
    let failed = |error| Error::Read { layer: source.layer, source: error };
    let mut bytes = Hashed { inner: compressed::decompressed(from, source.size).map_err(failed)?, hash: Sha256::new() };
    let mut unpacking = Unpacking {
        layer: source.layer,
        stage,
        lower,
        limit: bytes.inner.limit(),
        written: 0,
        count: 0,
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
        is_root_opaque: false,
        aufs: BTreeMap::new(),
        differences: Differences::default(),
    };
    let walked = unpacking.walk(&mut bytes);
    if unpacking.count > MAX_ENTRIES || matches!(walked, Err(Error::Lower { .. })) {
        // Nobody waits for the rest of it.
        return walked.map(|()| Differences::default());
    }
    // A wrong digest explains any other fault, so it is the one that is told; a bomb is told as what it is.
    let rest = io::copy(&mut bytes, &mut io::sink());
    if !bytes.inner.is_over() && rest.is_ok() {
        let got = Digest::from_bytes(bytes.hash.finalize().into());
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
    /// Most bytes that its files may have together, those that are replaced among them.
    limit: u64,
    /// Bytes of files so far.
    written: u64,
    /// Entries so far, those of which nothing is kept among them.
    count: usize,
    /// What lower layers have and this one takes away.
    whiteouts: BTreeSet<LayerPath>,
    /// Directories of which lower layers' contents are taken away.
    opaque: BTreeSet<LayerPath>,
    /// Whether all that lower layers have is taken away.
    is_root_opaque: bool,
    /// The files of several names that aufs kept, by its names for them.
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
            return Err(self.wrong(&spelled, "a name that silo needs for itself"));
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            let gone = self.place(&spelled, dir, gone)?;
            self.whiteouts.insert(gone);
            return Ok(());
        }
        let place = self.place(&spelled, dir, name)?;
        self.add(&spelled, &place, entry)
    }

    /// Adds an entry at its place.
    fn add(&mut self, spelled: &[u8], place: &LayerPath, entry: &mut Entry<'_>) -> Result<(), Error> {
        let meta = self.meta(entry);
        let staged = |error| staged(self.layer, spelled, error);
        let is_dir = entry.kind == Kind::Dir;
        match self.stage.holds(place) {
            None => {}
            Some(Staged::Dir | Staged::ImpliedDir) if is_dir => {}
            // A link to itself would remove what it leads to.
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
                // It replaces what lower layers have there all the same.
                self.whiteouts.insert(place.clone());
                Ok(())
            }
        }
    }

    /// Adds another name of something.
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
                let file = lower.index.resolve(&to).ok_or_else(|| self.wrong(spelled, "a hard link to nothing"))?;
                let Node::File { size, .. } = file.node else { return Err(self.wrong(spelled, "a hard link to nothing")) };
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
                Err(self.wrong(spelled, &format!("a hard link to {}, which is not there", shown(to.as_bytes()))))
            }
        }
    }

    /// Finds what a hard link leads to.
    fn target(&self, spelled: &[u8], target: &[u8]) -> Result<LayerPath, Error> {
        let plain = plain(target).map_err(|what| self.wrong(spelled, what))?;
        let plain = plain.ok_or_else(|| self.wrong(spelled, "a hard link to the root"))?;
        if let Some(kept) = plain.strip_prefix(AUFS_FILES).and_then(|name| self.aufs.get(name)) {
            return Ok(kept.clone());
        }
        let (dir, name) = split(&plain);
        self.place(spelled, dir, name)
    }

    /// Keeps a file of aufs as long as other names of it may come, and nothing else.
    fn keep_aufs(&mut self, spelled: &[u8], path: &[u8], entry: &mut Entry<'_>) -> Result<(), Error> {
        let Some(name) = path.strip_prefix(AUFS_FILES).filter(|_| entry.kind == Kind::File) else { return Ok(()) };
        let kept = format!("{AUFS_KEPT}/{}", self.aufs.len());
        let kept = LayerPath::parse(kept.as_bytes()).map_err(|error| self.wrong(spelled, &error.to_string()))?;
        self.aufs.insert(name.to_vec(), kept.clone());
        self.add(spelled, &kept, entry)
    }

    /// Notes that a directory hides what lower layers have in it.
    fn hide(&mut self, spelled: &[u8], dir: &[u8]) -> Result<(), Error> {
        if dir.is_empty() {
            self.is_root_opaque = true;
            return Ok(());
        }
        let (above, name) = split(dir);
        // A link to a directory is followed: the marker is a name in it.
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

    /// Returns where a name in a directory lies, links on the way followed.
    fn place(&self, spelled: &[u8], dir: &[u8], name: &[u8]) -> Result<LayerPath, Error> {
        let dir = self.resolved(spelled, dir)?;
        let path = if dir.is_empty() { name.to_vec() } else { [&dir, &b"/"[..], name].concat() };
        LayerPath::parse(&path).map_err(|error| self.wrong(spelled, &error.to_string()))
    }

    /// Follows the links on the way to a directory; where nothing stands yet, the names are as they are spelled.
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
                return Err(self.wrong(spelled, "too many symbolic links on the way to it"));
            }
            done.pop();
            if target.starts_with(b"/") {
                done.clear();
            }
            todo.extend(target.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
        }
        Ok(done.join(&b'/'))
    }

    /// Returns the target of the symbolic link at a path, if there is one.
    fn link_at(&self, spelled: &[u8], path: &LayerPath) -> Result<Option<&[u8]>, Error> {
        match (self.stage.holds(path), self.lower) {
            // Its target may be a symlink of lower layers.
            (Some(Staged::Symlink(_)), None) => Err(self.needs_lower(spelled)),
            (Some(Staged::Symlink(target)), Some(_)) => Ok(Some(target)),
            (None, Some(lower)) if !self.is_gone(path) => match lower.index.get(path).map(|entry| &entry.node) {
                Some(Node::Symlink { target }) => Ok(Some(target)),
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Says whether this layer has taken away what lower layers have at a path.
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

    /// Adds what lower layers lose. What this layer has itself stays: a directory then hides what was below it.
    fn whiten(mut self) -> Result<Differences, Error> {
        if !self.aufs.is_empty() {
            let kept = LayerPath::parse(AUFS_KEPT.as_bytes()).map_err(|error| self.wrong(AUFS_FILES, &error.to_string()))?;
            self.stage.remove(&kept).map_err(|error| self.staged(AUFS_FILES, error))?;
        }
        self.stand_over_files()?;
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
                    // Below something that is no directory any more there is nothing to take away.
                    Err(StageError::ParentNotDirectory { .. }) => {}
                    other => other.map_err(failed)?,
                },
                Some(Staged::Dir) => self.stage.set_opaque(&gone).map_err(failed)?,
                Some(Staged::ImpliedDir) => {
                    self.stage.add_dir(&gone, &normal::implied_dir()).map_err(failed)?;
                    self.stage.set_opaque(&gone).map_err(failed)?;
                }
                // A file in its place covers it by itself.
                Some(Staged::File | Staged::Symlink(_) | Staged::Whiteout) => {}
            }
        }
        Ok(self.differences)
    }

    /// Makes directories entries that nobody described and that stand where lower layers have a file.
    fn stand_over_files(&mut self) -> Result<(), Error> {
        let Some(lower) = self.lower else { return Ok(()) };
        let is_file = |path: &LayerPath| lower.get(path).is_some_and(|entry| !matches!(entry.node, Node::Dir { .. }));
        for dir in self.stage.implied_dirs().into_iter().filter(is_file) {
            self.stage.add_dir(&dir, &normal::implied_dir()).map_err(|error| self.staged(dir.as_bytes(), error))?;
        }
        Ok(())
    }

    /// Makes a directory hide what lower layers have in it; where only they describe it, it is as they say.
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

/// Splits a path into its directory and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    }
}

/// What was read, hashed on its way.
struct Hashed<'a> {
    inner: Bounded<'a>,
    hash: Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}
