//! Makes a layer of a build step's output: compares the upper directory of its overlay with the lower layers.
//!
//! The result does not depend on the order of the step's writes. A file equal to the lower layers is left out, even if it was rewritten. A
//! directory that was removed and made again gives a whiteout for each missing entry, never an opaque directory. Changed parents are
//! entries, unchanged ones are not.
//!
//! The whole upper directory is scanned before any file is moved, so a refusal leaves it unchanged. The sandbox must have ended: nobody may
//! change the directory during the capture.

use crate::digest::{Digest, Hasher};
use crate::entry::{Entry, Kind, Meta, Node};
use crate::flock::SharedLock;
use crate::index::Index;
use crate::inode;
use crate::layout::Store;
use crate::normal;
use crate::openat::Beneath;
use crate::path::{LayerPath, LayerPathError};
use crate::path_error::{PathError, at};
use crate::stage::{Parents, Stage, StageError};
use crate::system;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Decision of a filter about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The entry belongs to the layer.
    Keep,
    /// The entry does not belong to the layer; nor does anything below a directory.
    Drop,
}

/// Decides about each entry before it is compared. A dropped entry is treated as if the step had not made it.
pub type Filter<'a> = &'a dyn Fn(&LayerPath, &Meta, Kind) -> Verdict;

/// Input of [`capture`].
#[derive(Clone, Copy)]
pub struct Capture<'a> {
    /// The overlay's upper directory, on the store's file system. Its files are moved into the layer.
    pub upper: &'a Path,
    /// The lower layers.
    pub lower: Lower<'a>,
    /// The latest allowed mtime of a file.
    pub epoch: i64,
    /// Selects the entries that belong to the layer.
    pub filter: Filter<'a>,
}

/// Stacked trees without whiteouts between them, the topmost first. The lowest may be several layers merged into one (see
/// [`crate::merge`]).
#[derive(Clone, Copy, Debug)]
pub struct Lower<'a>(pub &'a [&'a Index]);

impl<'a> Lower<'a> {
    /// Checks if a layer can be stacked on these without a merge: it has no whiteout or opaque directory, and replaces no directory by
    /// another kind or the reverse.
    pub fn can_bear(&self, layer: &Index) -> bool {
        let is_dir = |node: &Node| matches!(node, Node::Dir { .. });
        layer.entries().iter().all(|entry| match &entry.node {
            Node::Whiteout | Node::Dir { opaque: true } => false,
            node => self.get(&entry.path).is_none_or(|below| is_dir(&below.node) == is_dir(node)),
        })
    }

    /// Returns the visible entries with an owner other than 0:0 or with capabilities, and the directories above them. A directory comes
    /// before its content.
    pub fn owned(&self) -> Vec<Owned<'a>> {
        let mut all: BTreeMap<&'a LayerPath, Owned<'a>> = BTreeMap::new();
        for (number, index) in self.0.iter().enumerate() {
            for entry in index.entries() {
                let (meta, first) = match &entry.node {
                    Node::Whiteout => continue,
                    Node::Hardlink { to } => match index.get(to) {
                        Some(first) => (&first.meta, Some(&first.path)),
                        None => continue,
                    },
                    Node::Dir { .. } | Node::File { .. } | Node::Symlink { .. } => (&entry.meta, None),
                };
                let is_owned = (meta.uid, meta.gid) != (0, 0) || meta.xattrs.contains_key(normal::CAPABILITY_XATTR);
                let is_hidden = |path: &LayerPath| self.0[..number].iter().any(|above| above.get(path).is_some());
                if !is_owned || is_hidden(&entry.path) {
                    continue;
                }
                let mut above = entry.path.parent();
                while let Some(dir) = above.take().and_then(|dir| self.get(&dir)) {
                    above = dir.path.parent();
                    all.entry(&dir.path).or_insert(Owned { path: &dir.path, meta: &dir.meta, first: None });
                }
                // Another layer may have replaced the first name.
                let first = first.filter(|first| !is_hidden(first));
                all.insert(&entry.path, Owned { path: &entry.path, meta, first });
            }
        }
        all.into_values().collect()
    }

    /// Checks if the trees have an entry at a path.
    pub fn has(&self, path: &LayerPath) -> bool {
        self.get(path).is_some()
    }

    fn get(&self, path: &LayerPath) -> Option<&'a Entry> {
        self.0.iter().find_map(|index| index.get(path))
    }

    fn resolve(&self, path: &LayerPath) -> Option<&'a Entry> {
        self.0.iter().find(|index| index.get(path).is_some()).and_then(|index| index.resolve(path))
    }

    fn below(&self, dir: &LayerPath) -> Vec<&'a Entry> {
        let mut all: BTreeMap<&LayerPath, &'a Entry> = BTreeMap::new();
        for index in self.0 {
            for entry in index.below(dir) {
                all.entry(&entry.path).or_insert(entry);
            }
        }
        all.into_values().collect()
    }
}

/// An entry whose owner or capabilities a file of the caller cannot have, or a directory above one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned<'a> {
    /// The path.
    pub path: &'a LayerPath,
    /// The metadata; for another name of a file, the file's.
    pub meta: &'a Meta,
    /// The first name of the file, if this is another one.
    pub first: Option<&'a LayerPath>,
}

/// A captured layer, ready to be inspected, changed and committed.
#[derive(Debug)]
pub struct Captured {
    /// The layer being made.
    pub stage: Stage,
    /// Sockets and fifos; layers do not hold them.
    pub skipped: Vec<LayerPath>,
}

/// Reason why an upper directory cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A name that layers do not allow.
    #[error(transparent)]
    Path(#[from] LayerPathError),
    /// An entry that layers do not allow.
    #[error("{path} {why}")]
    Unfit {
        /// The entry.
        path: LayerPath,
        /// The fault.
        why: &'static str,
    },
    /// The entries could not be staged.
    #[error(transparent)]
    Stage(#[from] StageError),
}

/// Makes a stage of an upper directory.
pub fn capture(store: &Store, _permission: &SharedLock, what: &Capture<'_>) -> Result<Captured, CaptureError> {
    let upper = Beneath::open(what.upper).map_err(at("open", what.upper))?;
    let is_true = inode::xattrs(what.upper).map_err(at("read the attributes of", what.upper))?.contains_key(normal::TRUE_XATTR.as_bytes());
    let mut scan = Scan { what, is_true, upper, found: BTreeMap::new(), digests: BTreeMap::new(), skipped: Vec::new() };
    scan.dir(None, Listing::Changes)?;
    let mut stage = store.stage_with(Parents::OnDiskOnly)?;
    let mut moved: BTreeMap<(u64, u64), LayerPath> = BTreeMap::new();
    let changed: BTreeSet<(u64, u64)> = scan.found.values().filter_map(ChangedEntry::changed_inode).collect();
    for (path, found) in &scan.found {
        match found {
            ChangedEntry::Dir(meta) => stage.add_dir(path, meta)?,
            ChangedEntry::Symlink(meta, target) => stage.add_symlink(path, meta, target)?,
            ChangedEntry::Whiteout => stage.add_whiteout(path)?,
            // Keep all names of a file or none, so that they stay one inode.
            ChangedEntry::File { inode, .. } if !changed.contains(inode) => {}
            ChangedEntry::File { meta, inode, .. } => match moved.get(inode) {
                Some(first) => stage.add_hardlink(path, first)?,
                None => {
                    let host = scan.upper.reach(path).map_err(at("open the directory of", &scan.upper.host(path)))?;
                    stage.adopt_file(path, meta, &host)?;
                    moved.insert(*inode, path.clone());
                }
            },
        }
    }
    Ok(Captured { stage, skipped: scan.skipped })
}

/// An entry of the upper directory that differs from the lower layers.
enum ChangedEntry {
    Dir(Meta),
    Symlink(Meta, Vec<u8>),
    Whiteout,
    File { meta: Meta, inode: (u64, u64), changed: bool },
}

impl ChangedEntry {
    fn changed_inode(&self) -> Option<(u64, u64)> {
        match self {
            ChangedEntry::File { inode, changed: true, .. } => Some(*inode),
            ChangedEntry::File { .. } | ChangedEntry::Dir(_) | ChangedEntry::Symlink(..) | ChangedEntry::Whiteout => None,
        }
    }
}

/// The meaning of a directory's listing in the upper directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    /// Changes of the lower directory.
    Changes,
    /// The whole directory: other lower entries are deleted.
    Whole,
}

struct Scan<'a> {
    what: &'a Capture<'a>,
    /// True if files had their real owners and capabilities in the step.
    is_true: bool,
    /// The upper directory, open: a path below it may be longer than PATH_MAX.
    upper: Beneath,
    found: BTreeMap<LayerPath, ChangedEntry>,
    /// The digests of hashed files by inode, for their other names.
    digests: BTreeMap<(u64, u64), Digest>,
    skipped: Vec<LayerPath>,
}

impl Scan<'_> {
    /// Scans a directory.
    fn dir(&mut self, dir: Option<&LayerPath>, listing: Listing) -> Result<(), CaptureError> {
        let host = match dir {
            Some(dir) => self.reach(dir)?,
            None => self.what.upper.to_owned(),
        };
        let mut names: Vec<OsString> = Vec::new();
        for item in fs::read_dir(&host).map_err(at("list", &host))? {
            names.push(item.map_err(at("list", &host))?.file_name());
        }
        names.sort();
        let mut here = BTreeSet::new();
        for name in names {
            let path = match dir {
                Some(dir) => dir.join(name.as_bytes())?,
                None => LayerPath::parse(name.as_bytes())?,
            };
            if self.item(&path, listing)? {
                here.insert(path);
            }
        }
        let Some(dir) = dir.filter(|_| listing == Listing::Whole) else {
            return Ok(());
        };
        let lower = self.what.lower.below(dir);
        let gone = lower.into_iter().filter(|entry| entry.path.parent_bytes() == Some(dir.as_bytes()));
        for entry in gone.filter(|entry| !here.contains(&entry.path)) {
            self.whiteout(&entry.path);
        }
        Ok(())
    }

    fn reach(&mut self, path: &LayerPath) -> Result<PathBuf, CaptureError> {
        Ok(self.upper.reach(path).map_err(at("open the directory of", &self.upper.host(path)))?)
    }

    /// Scans one item; returns whether the layer has an entry other than a whiteout there.
    fn item(&mut self, path: &LayerPath, listing: Listing) -> Result<bool, CaptureError> {
        let host = &self.reach(path)?;
        let stat = fs::symlink_metadata(host).map_err(at("inspect", host))?;
        let unfit = |why| CaptureError::Unfit { path: path.clone(), why };
        let kind = FileType::from_raw_mode(stat.mode() as rustix::fs::RawMode);
        match kind {
            FileType::CharacterDevice if stat.rdev() == 0 => {
                self.whiteout(path);
                return Ok(false);
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(unfit("is a device node, which layers cannot hold"));
            }
            FileType::Fifo | FileType::Socket => {
                self.skipped.push(path.clone());
                // The lower entry at this path is deleted in any case.
                self.whiteout(path);
                return Ok(false);
            }
            FileType::Symlink => {
                let target = fs::read_link(host).map_err(at("read the link", host))?;
                self.symlink(path, target.into_os_string().as_bytes().to_vec());
                return Ok(true);
            }
            FileType::Directory | FileType::RegularFile => {}
            FileType::Unknown => return Err(unfit("has a type that layers do not allow")),
        }
        make_ours(host, &stat)?;
        let xattrs = inode::xattrs(host).map_err(at("read the attributes of", host))?;
        if overlay(&xattrs, "redirect").is_some() || overlay(&xattrs, "metacopy").is_some() {
            return Err(unfit("was redirected by the overlay, which must be mounted with redirect_dir=off,metacopy=off"));
        }
        let meta = self.meta(path, &stat, &xattrs)?;
        if kind == FileType::Directory {
            let is_opaque = overlay(&xattrs, "opaque") == Some(b"y");
            self.directory(path, &meta, if is_opaque { Listing::Whole } else { listing })?;
        } else if stat.len() == 0 && overlay(&xattrs, "whiteout").is_some() {
            self.whiteout(path);
            return Ok(false);
        } else {
            self.file(host, path, meta, &stat)?;
        }
        Ok(true)
    }

    fn directory(&mut self, path: &LayerPath, meta: &Meta, listing: Listing) -> Result<(), CaptureError> {
        let meta = normal::meta(Kind::Dir, meta);
        if self.dropped(path, &meta, Kind::Dir) {
            return Ok(());
        }
        let same = |entry: &Entry| entry.node.kind() == Kind::Dir && entry.meta == meta;
        if !self.what.lower.get(path).is_some_and(same) {
            self.found.insert(path.clone(), ChangedEntry::Dir(meta));
        }
        self.dir(Some(path), listing)
    }

    fn file(&mut self, host: &Path, path: &LayerPath, meta: Meta, stat: &fs::Metadata) -> Result<(), CaptureError> {
        let mut meta = normal::meta(Kind::File, &meta);
        if self.dropped(path, &meta, Kind::File) {
            return Ok(());
        }
        let inode = (stat.dev(), stat.ino());
        let mut changed = true;
        if let Some(Entry { meta: old, node: Node::File { size, digest }, .. }) = self.what.lower.resolve(path)
            && *size == stat.len()
            && (meta.uid, meta.gid) == (old.uid, old.gid)
            && self.digest(host, inode)? == *digest
        {
            // Capabilities are not stored on disk, so a file copied up by the overlay lacks them, unless they were real. Bytes and owner are
            // unchanged, so nothing removed the capability.
            if let Some(capability) = old.xattrs.get(normal::CAPABILITY_XATTR).filter(|_| !self.is_true) {
                meta.xattrs.entry(normal::CAPABILITY_XATTR.to_vec()).or_insert_with(|| capability.clone());
            }
            changed = meta.mode != old.mode || meta.xattrs != old.xattrs;
        }
        self.found.insert(path.clone(), ChangedEntry::File { meta, inode, changed });
        Ok(())
    }

    fn symlink(&mut self, path: &LayerPath, target: Vec<u8>) {
        let meta = normal::meta(Kind::Symlink, &Meta::default());
        if self.dropped(path, &meta, Kind::Symlink) {
            return;
        }
        let node = Node::Symlink { target };
        let same = |entry: &Entry| entry.node == node && entry.meta == meta;
        if !self.what.lower.get(path).is_some_and(same)
            && let Node::Symlink { target } = node
        {
            self.found.insert(path.clone(), ChangedEntry::Symlink(meta, target));
        }
    }

    /// Records a deletion, if the lower layers have an entry at `path`.
    fn whiteout(&mut self, path: &LayerPath) {
        let lower = self.what.lower;
        let stood = lower.get(path).is_some() || !lower.below(path).is_empty();
        if stood && !self.dropped(path, &normal::whiteout(), Kind::Whiteout) {
            self.found.insert(path.clone(), ChangedEntry::Whiteout);
        }
    }

    fn dropped(&self, path: &LayerPath, meta: &Meta, kind: Kind) -> bool {
        (self.what.filter)(path, meta, kind) == Verdict::Drop
    }

    fn meta(&self, path: &LayerPath, stat: &fs::Metadata, xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Meta, CaptureError> {
        let owner = xattrs.get(normal::OWNER_XATTR.as_bytes());
        let owner = match owner.map(|text| normal::parse_owner(text)) {
            None => (0, 0),
            Some(Some(owner)) => owner,
            Some(None) => {
                let why = "has a malformed attribute user.silo.owner";
                return Err(CaptureError::Unfit { path: path.clone(), why });
            }
        };
        let mut xattrs = xattrs.clone();
        if let Some(capability) = xattrs.get(normal::RECORDED_CAPABILITY_XATTR.as_bytes()).cloned() {
            xattrs.insert(normal::CAPABILITY_XATTR.to_vec(), capability);
        }
        Ok(Meta { mode: stat.mode() & 0o7777, uid: owner.0, gid: owner.1, mtime: normal::clamp(stat.mtime(), self.what.epoch), xattrs })
    }

    fn digest(&mut self, host: &Path, inode: (u64, u64)) -> Result<Digest, CaptureError> {
        if let Some(digest) = self.digests.get(&inode) {
            return Ok(*digest);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(host, flags, Mode::empty()).map_err(at("open", host))?;
        let mut hasher = Hasher::new();
        io::copy(&mut File::from(file), &mut hasher).map_err(at("read", host))?;
        let digest = hasher.finish();
        self.digests.insert(inode, digest);
        Ok(digest)
    }
}

/// Adds the permissions needed to read a file or to move files out of a directory. `stat` has the original ones; it was read before.
fn make_ours(host: &Path, stat: &fs::Metadata) -> Result<(), PathError> {
    let need = if stat.is_dir() { 0o700 } else { 0o400 };
    if stat.mode() & need == need {
        return Ok(());
    }
    system::change_mode(rustix::fs::CWD, host, |mode| mode | need).map_err(at("change the mode of", host))
}

/// Returns an attribute internal to overlayfs, under either of its two prefixes.
fn overlay<'a>(xattrs: &'a BTreeMap<Vec<u8>, Vec<u8>>, name: &str) -> Option<&'a [u8]> {
    let get = |prefix: &str| xattrs.get(format!("{prefix}.overlay.{name}").as_bytes());
    get("user").or_else(|| get("trusted")).map(Vec::as_slice)
}
