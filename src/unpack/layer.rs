//! One layer of somebody else's image into one of ours.
//!
//! The tar may be plain or compressed, as its first bytes say. Whiteouts become ours; device nodes and
//! pipes, names that leave the root, and anything that is there twice are refused. What was read must have the digest that the
//! image's configuration states, so nothing that was changed on the way becomes a layer.

use std::collections::BTreeSet;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use silo_store::digest::Digest;
use silo_store::entry::{MAX_ENTRIES, Meta};
use silo_store::path::LayerPath;
use silo_store::stage::Stage;
use tar::EntryType;

use super::compressed::{self, Bounded};
use super::entries::{self, trimmed};

/// The name that a whiteout's begins with.
const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of all that lower layers have in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The one extended attribute of files in images that means something in a sandbox.
const CAPABILITY: &str = "SCHILY.xattr.security.capability";

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

/// Unpacks a layer into `stage`.
pub fn unpack(source: Source, from: impl Read, stage: &mut Stage) -> Result<(), Error> {
    let failed = |error| Error::Read { layer: source.layer, source: error };
    let mut bytes = Hashed { inner: compressed::decompressed(from, source.size).map_err(failed)?, hash: Sha256::new() };
    let limit = bytes.inner.limit();
    let mut unpacking = Unpacking { layer: source.layer, stage, limit, count: 0, whiteouts: BTreeSet::new(), opaque: BTreeSet::new() };
    let walked = unpacking.walk(&mut bytes);
    if unpacking.count > MAX_ENTRIES {
        // Nobody waits for the rest of it.
        return walked;
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
    /// Most bytes that its files may have together.
    limit: u64,
    /// Entries so far, those of which nothing is kept among them.
    count: usize,
    /// What lower layers have and this one takes away.
    whiteouts: BTreeSet<Vec<u8>>,
    /// Directories of which lower layers' contents are taken away.
    opaque: BTreeSet<Vec<u8>>,
}

impl Unpacking<'_> {
    fn walk(&mut self, bytes: &mut dyn Read) -> Result<(), Error> {
        let layer = self.layer;
        entries::each(bytes, |source| Error::Read { layer, source }, |entry| self.entry(entry))
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Error> {
        let spelled = entry.path_bytes().into_owned();
        self.count += 1;
        if self.count > MAX_ENTRIES {
            return Err(self.wrong(&spelled, &format!("the layer has more than {MAX_ENTRIES} entries")));
        }
        let Some(plain) = trimmed(&spelled) else { return Ok(()) };
        let (dir, name) = match plain.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&plain[..at], &plain[at + 1..]),
            None => (&plain[..0], plain),
        };
        if name == OPAQUE {
            self.opaque.insert(dir.to_vec());
            return Ok(());
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            self.whiteouts.insert(if dir.is_empty() { gone.to_vec() } else { [dir, b"/", gone].concat() });
            return Ok(());
        }
        let path = self.path(&spelled, plain)?;
        let meta = self.meta(entry, &spelled)?;
        let staged = match entry.header().entry_type() {
            EntryType::Directory => self.stage.add_dir(&path, &meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let left = self.limit.saturating_sub(self.stage.bytes());
                if entry.size() > left {
                    return Err(self.wrong(&spelled, &format!("the layer unpacks to more than {} bytes", self.limit)));
                }
                self.stage.add_file(&path, &meta, entry, left)
            }
            EntryType::Symlink => {
                let target = self.target(entry, &spelled)?;
                self.stage.add_symlink(&path, &meta, &target)
            }
            EntryType::Link => {
                let target = self.target(entry, &spelled)?;
                let to = trimmed(&target).ok_or_else(|| self.wrong(&spelled, "a hard link to the root"))?;
                let to = self.path(&spelled, to)?;
                self.stage.add_hardlink(&path, &to)
            }
            EntryType::Char | EntryType::Block => return Err(self.wrong(&spelled, "a device node, which no layer may hold")),
            other => return Err(self.wrong(&spelled, &format!("entries of kind {other:?} are not unpacked"))),
        };
        staged.map_err(|error| self.staged(&spelled, error))
    }

    fn path(&self, spelled: &[u8], plain: &[u8]) -> Result<LayerPath, Error> {
        LayerPath::parse(plain).map_err(|error| self.wrong(spelled, &error.to_string()))
    }

    fn target<R: Read>(&self, entry: &tar::Entry<'_, R>, spelled: &[u8]) -> Result<Vec<u8>, Error> {
        entry.link_name_bytes().map(|target| target.into_owned()).ok_or_else(|| self.wrong(spelled, "a link without a target"))
    }

    fn meta<R: Read>(&self, entry: &mut tar::Entry<'_, R>, spelled: &[u8]) -> Result<Meta, Error> {
        let failed = |source| Error::Read { layer: self.layer, source };
        let mut xattrs = std::collections::BTreeMap::new();
        if let Some(extensions) = entry.pax_extensions().map_err(failed)? {
            for extension in extensions {
                let extension = extension.map_err(failed)?;
                if extension.key_bytes() == CAPABILITY.as_bytes() {
                    xattrs.insert(b"security.capability".to_vec(), extension.value_bytes().to_vec());
                }
            }
        }
        let header = entry.header();
        let id = |value: u64| u32::try_from(value).map_err(|_| self.wrong(spelled, "owner number out of range"));
        Ok(Meta {
            mode: header.mode().map_err(failed)? & 0o7777,
            uid: id(header.uid().map_err(failed)?)?,
            gid: id(header.gid().map_err(failed)?)?,
            mtime: i64::try_from(header.mtime().map_err(failed)?).unwrap_or(0),
            xattrs,
        })
    }

    /// Adds what lower layers lose. What this layer has itself stays: a directory then hides what was below it.
    fn whiten(mut self) -> Result<(), Error> {
        for dir in std::mem::take(&mut self.opaque) {
            if dir.is_empty() {
                return Err(self.wrong(OPAQUE, "a layer that takes the whole root away"));
            }
            let path = self.path(&dir, &dir)?;
            self.stage.set_opaque(&path).map_err(|error| self.staged(&dir, error))?;
        }
        for gone in std::mem::take(&mut self.whiteouts) {
            let path = self.path(&gone, &gone)?;
            match self.stage.add_whiteout(&path) {
                Err(silo_store::stage::StageError::Duplicate { .. }) => {
                    // A file in its place covers it by itself.
                    let _ = self.stage.set_opaque(&path);
                }
                other => other.map_err(|error| self.staged(&gone, error))?,
            }
        }
        Ok(())
    }

    fn wrong(&self, path: &[u8], what: &str) -> Error {
        Error::Entry { layer: self.layer, path: shown(path), what: what.to_owned() }
    }

    fn staged(&self, path: &[u8], source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Stage { layer: self.layer, path: shown(path), source: Box::new(source) }
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).escape_debug().to_string()
}

/// The decompressed bytes, hashed on their way.
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
