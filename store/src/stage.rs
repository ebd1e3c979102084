//! A layer under construction: a private directory to which entries are added, in any order.
//!
//! Everything is written relative to open directories below the stage and never through a symlink (see `beneath`). Missing parents of an
//! entry become 0:0 0755 directories, which are entries too; a later `add_dir` replaces their metadata. A path may be added once. Only a
//! directory may be added again; its last metadata count.

use crate::archive::CHUNK_BYTES;
use crate::draft::{Draft, DraftNode};
use crate::entry::{Kind, MAX_ENTRIES, Meta};
use crate::inode;
use crate::layout::{Store, TREE};
use crate::normal;
use crate::openat::Beneath;
use crate::path::LayerPath;
use crate::path_error::{PathError, at};
use crate::private::make_dir_for_modes;
use crate::scratch::Scratch;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// The mode bit of a directory that directories made in it inherit.
const SETGID: u32 = 0o2000;

/// A layer under construction; dropped without a commit it leaves nothing.
#[derive(Debug)]
pub struct Stage {
    pub(crate) store: Store,
    pub(crate) scratch: Scratch,
    pub(crate) beneath: Beneath,
    pub(crate) drafts: BTreeMap<LayerPath, Draft>,
    /// Directories on disk that are not entries.
    pub(crate) unrecorded: BTreeSet<LayerPath>,
    /// Hard links by the main name of their file; some may be removed.
    pub(crate) names: BTreeMap<LayerPath, Vec<LayerPath>>,
    /// The number of hard links that were moved to another main name.
    pub(crate) moved: usize,
    parents: Parents,
    /// The permissions that a created entry keeps; the others need a change of its mode.
    kept_modes: u32,
    /// True if a directory gives its setgid bit to directories in it.
    has_setgid: bool,
    pub(crate) bytes: u64,
    buffer: Vec<u8>,
}

/// Treatment of missing parent directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parents {
    /// They become entries: right for a package, which is a tree of its own.
    Recorded,
    /// They exist on disk only: right for a difference to lower layers, which have them.
    OnDiskOnly,
}

/// The kind of an entry of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staged<'a> {
    /// A directory that was added.
    Dir,
    /// A missing parent directory that was added implicitly.
    ImpliedDir,
    /// A file, under any of its names.
    File,
    /// A symlink with its target.
    Symlink(&'a [u8]),
    /// A whiteout.
    Whiteout,
}

/// Reason why an entry cannot be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The source of a file's bytes failed.
    #[error("cannot read the contents of {path}")]
    Contents {
        /// The entry.
        path: LayerPath,
        /// The error of the source.
        #[source]
        source: io::Error,
    },
    /// The path was added before.
    #[error("{path} was added twice")]
    Duplicate {
        /// The entry.
        path: LayerPath,
    },
    /// A parent of the entry is not a directory.
    #[error("{path} is below a path that is not a directory")]
    ParentNotDirectory {
        /// The entry.
        path: LayerPath,
    },
    /// The path was not added, or has another kind.
    #[error("{path} {why}")]
    Unfit {
        /// The entry.
        path: LayerPath,
        /// The fault.
        why: &'static str,
    },
    /// A hard link to a missing path or to anything but a file.
    #[error("{path} is a hard link to {to}, which is not a file added before")]
    LinkTarget {
        /// The entry.
        path: LayerPath,
        /// The target of the hard link.
        to: LayerPath,
    },
    /// A file is longer than the caller allows.
    #[error("{path} is longer than {limit} bytes")]
    TooLong {
        /// The entry.
        path: LayerPath,
        /// The limit in bytes.
        limit: u64,
    },
    /// More entries than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
}

impl Store {
    /// Starts a layer.
    pub fn stage(&self) -> Result<Stage, PathError> {
        self.stage_with(Parents::Recorded)
    }

    /// Starts a layer that is a difference to lower layers: missing parent directories belong to those.
    pub fn stage_difference(&self) -> Result<Stage, PathError> {
        self.stage_with(Parents::OnDiskOnly)
    }

    pub(crate) fn stage_with(&self, parents: Parents) -> Result<Stage, PathError> {
        let scratch = Scratch::new(self)?;
        let tree = scratch.dir().join(TREE);
        let kept_modes = make_dir_for_modes(&tree)?;
        Ok(Stage {
            store: self.clone(),
            beneath: Beneath::open(&tree).map_err(at("open", &tree))?,
            scratch,
            drafts: BTreeMap::new(),
            unrecorded: BTreeSet::new(),
            names: BTreeMap::new(),
            moved: 0,
            parents,
            kept_modes,
            has_setgid: false,
            bytes: 0,
            buffer: vec![0; CHUNK_BYTES],
        })
    }
}

impl Stage {
    /// Returns the total size of all added files, so that a caller can limit it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the kind of the entry at a path so far.
    pub fn holds(&self, path: &LayerPath) -> Option<Staged<'_>> {
        match self.drafts.get(path).map(|draft| &draft.node) {
            Some(DraftNode::Dir { .. }) => Some(Staged::Dir),
            Some(DraftNode::File { .. } | DraftNode::Hardlink { .. }) => Some(Staged::File),
            Some(DraftNode::Symlink { target }) => Some(Staged::Symlink(target)),
            Some(DraftNode::Whiteout) => Some(Staged::Whiteout),
            None => self.unrecorded.contains(path).then_some(Staged::ImpliedDir),
        }
    }

    /// Lists the implied parent directories that are not entries.
    pub fn implied_dirs(&self) -> Vec<LayerPath> {
        self.unrecorded.iter().cloned().collect()
    }

    /// Returns the number of entries.
    pub fn entries(&self) -> usize {
        self.drafts.len()
    }

    /// Adds a directory, or replaces the metadata of one.
    pub fn add_dir(&mut self, path: &LayerPath, meta: &Meta) -> Result<(), StageError> {
        let meta = normal::meta(Kind::Dir, meta);
        match self.drafts.get_mut(path) {
            Some(Draft { meta: old, node: DraftNode::Dir { .. } }) => {
                *old = meta.clone();
                self.undress_dir(path)?;
            }
            Some(_) => return Err(StageError::Duplicate { path: path.clone() }),
            None => {
                self.admit(path)?;
                let is_new = !self.unrecorded.remove(path);
                if is_new {
                    self.make_dir(path, &meta)?;
                }
                self.drafts.insert(path.clone(), Draft { meta: meta.clone(), node: DraftNode::Dir { opaque: false } });
                if is_new {
                    return Ok(());
                }
            }
        }
        self.dress_dir(path, &meta)
    }

    /// Adds a file with all bytes of `contents`, at most `limit`.
    pub fn add_file(&mut self, path: &LayerPath, meta: &Meta, contents: &mut dyn Read, limit: u64) -> Result<(), StageError> {
        let meta = normal::meta(Kind::File, meta);
        self.admit_new(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.beneath.parent(path);
        let mode = inode::final_mode(Kind::File, &meta, self.kept_modes);
        let opened = parent.and_then(|dir| fs::openat(dir, path.name(), flags, mode.unwrap_or(Mode::RUSR | Mode::WUSR)));
        let mut file = std::fs::File::from(opened.map_err(at("create", &self.beneath.host(path)))?);
        let filled = self.fill(path, &mut file, contents, limit).and_then(|size| {
            let dressed = match mode {
                Some(_) => fs::futimens(&file, &inode::times(meta.mtime)),
                None => inode::dress(file.as_fd(), Kind::File, &meta),
            };
            dressed.map_err(at("set the metadata of", &self.beneath.host(path)))?;
            Ok(size)
        });
        match filled {
            Ok(size) => {
                self.bytes += size;
                self.drafts.insert(path.clone(), Draft { meta, node: DraftNode::File { size } });
                Ok(())
            }
            Err(error) => {
                // Report the first error; the stage is removed as a whole anyway.
                let _ = self.beneath.parent(path).and_then(|dir| fs::unlinkat(dir, path.name(), AtFlags::empty()));
                Err(error)
            }
        }
    }

    /// Adds a symlink.
    pub fn add_symlink(&mut self, path: &LayerPath, meta: &Meta, target: &[u8]) -> Result<(), StageError> {
        if target.is_empty() || target.contains(&0) || target.len() > 4095 {
            let why = "has a link target that is empty, too long or holds a NUL byte";
            return Err(StageError::Unfit { path: path.clone(), why });
        }
        self.admit_new(path)?;
        let meta = normal::meta(Kind::Symlink, meta);
        let made = self.beneath.parent(path).and_then(|dir| {
            fs::symlinkat(target, dir, path.name())?;
            fs::utimensat(dir, path.name(), &inode::times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
        });
        made.map_err(at("make the link", &self.beneath.host(path)))?;
        let node = DraftNode::Symlink { target: target.to_vec() };
        self.drafts.insert(path.clone(), Draft { meta, node });
        Ok(())
    }

    /// Adds a hard link to a file that was added before.
    pub fn add_hardlink(&mut self, path: &LayerPath, to: &LayerPath) -> Result<(), StageError> {
        let (file, meta) = match self.drafts.get(to) {
            Some(Draft { meta, node: DraftNode::File { .. } }) => (to.clone(), meta.clone()),
            Some(Draft { meta, node: DraftNode::Hardlink { to } }) => (to.clone(), meta.clone()),
            _ => {
                return Err(StageError::LinkTarget { path: path.clone(), to: to.clone() });
            }
        };
        self.admit_new(path)?;
        // Both directories must be open at the same time, so the first is cloned.
        let from = self.beneath.parent(&file).and_then(|dir| dir.try_clone_to_owned().map_err(|_| Errno::MFILE));
        let linked = from.and_then(|from| {
            let dir = self.beneath.parent(path)?;
            fs::linkat(from, file.name(), dir, path.name(), AtFlags::empty())
        });
        linked.map_err(at("make the hard link", &self.beneath.host(path)))?;
        self.names.entry(file.clone()).or_default().push(path.clone());
        self.drafts.insert(path.clone(), Draft { meta, node: DraftNode::Hardlink { to: file } });
        Ok(())
    }

    /// Adds a whiteout: deletes the entry of lower layers at `path`. It exists in the index only.
    pub fn add_whiteout(&mut self, path: &LayerPath) -> Result<(), StageError> {
        self.admit_new(path)?;
        let draft = Draft { meta: normal::whiteout(), node: DraftNode::Whiteout };
        self.drafts.insert(path.clone(), draft);
        Ok(())
    }

    /// Makes an added directory hide all entries of lower layers below it. This exists in the index only.
    pub fn set_opaque(&mut self, path: &LayerPath) -> Result<(), StageError> {
        match self.drafts.get_mut(path) {
            Some(Draft { node: DraftNode::Dir { opaque }, .. }) => {
                *opaque = true;
                Ok(())
            }
            _ => Err(StageError::Unfit { path: path.clone(), why: "is not a directory added before" }),
        }
    }

    /// Moves the regular file at the host path `from` into the stage, without copying.
    ///
    /// `from` must be on the store's file system, and nobody may write to it any more. Its extended attributes and permissions become those
    /// of `meta`.
    pub fn adopt_file(&mut self, path: &LayerPath, meta: &Meta, from: &Path) -> Result<(), StageError> {
        let meta = normal::meta(Kind::File, meta);
        let stat = fs::lstat(from).map_err(at("inspect", from))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StageError::Unfit { path: path.clone(), why: "is not a regular file" });
        }
        self.admit_new(path)?;
        let dir = self.beneath.parent(path);
        let moved = dir.and_then(|dir| {
            match fs::renameat_with(fs::CWD, from, dir, path.name(), RenameFlags::NOREPLACE) {
                Err(Errno::XDEV) => copy_in(from, dir, path)?,
                result => result?,
            }
            // Its mode may forbid reading. The moved file is not a symlink, so chmod does not follow one.
            fs::chmodat(dir, path.name(), inode::mode_of(0o600), AtFlags::empty())
        });
        moved.map_err(at("move into the store", from))?;
        let file = self.beneath.file(path).map_err(at("open", &self.beneath.host(path)))?;
        let dressed = inode::redress(file.as_fd(), Kind::File, &meta);
        dressed.map_err(at("set the metadata of", &self.beneath.host(path)))?;
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        self.bytes = self.bytes.saturating_add(size);
        self.drafts.insert(path.clone(), Draft { meta, node: DraftNode::File { size } });
        Ok(())
    }

    /// Copies `contents` into `file` and returns the length.
    fn fill(&mut self, path: &LayerPath, file: &mut std::fs::File, contents: &mut dyn Read, limit: u64) -> Result<u64, StageError> {
        let mut size = 0;
        loop {
            let got = match contents.read(&mut self.buffer) {
                Ok(0) => return Ok(size),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(StageError::Contents { path: path.clone(), source });
                }
            };
            size += got as u64;
            if size > limit {
                return Err(StageError::TooLong { path: path.clone(), limit });
            }
            file.write_all(&self.buffer[..got]).map_err(at("write", &self.beneath.host(path)))?;
        }
    }

    /// Checks that a new path is allowed, and makes its parents.
    fn admit_new(&mut self, path: &LayerPath) -> Result<(), StageError> {
        if self.drafts.contains_key(path) || self.unrecorded.contains(path) {
            return Err(StageError::Duplicate { path: path.clone() });
        }
        self.admit(path)
    }

    fn admit(&mut self, path: &LayerPath) -> Result<(), StageError> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(dir) = above {
            match self.drafts.get(&dir) {
                Some(Draft { node: DraftNode::Dir { .. }, .. }) => break,
                Some(_) => return Err(StageError::ParentNotDirectory { path: path.clone() }),
                None if self.unrecorded.contains(&dir) => break,
                None => {
                    above = dir.parent();
                    missing.push(dir);
                }
            }
        }
        // Implied directories cost memory and an inode each, too.
        if self.drafts.len() + self.unrecorded.len() + missing.len() >= MAX_ENTRIES {
            return Err(StageError::TooMany);
        }
        for dir in missing.into_iter().rev() {
            let meta = normal::implied_dir();
            self.make_dir(&dir, &meta)?;
            match self.parents {
                Parents::Recorded => {
                    let node = DraftNode::Dir { opaque: false };
                    self.drafts.insert(dir, Draft { meta, node });
                }
                Parents::OnDiskOnly => {
                    self.unrecorded.insert(dir);
                }
            }
        }
        Ok(())
    }

    /// Makes a directory; its time is set at the end.
    fn make_dir(&mut self, path: &LayerPath, meta: &Meta) -> Result<(), StageError> {
        let mode = inode::final_mode(Kind::Dir, meta, self.kept_modes).filter(|_| !self.has_setgid);
        let made = self.beneath.parent(path).and_then(|dir| fs::mkdirat(dir, path.name(), mode.unwrap_or(Mode::RWXU)));
        made.map_err(at("make the directory", &self.beneath.host(path)))?;
        if mode.is_some() { Ok(()) } else { self.dress_dir(path, meta) }
    }

    /// Sets the metadata of a directory, except its time.
    fn dress_dir(&mut self, path: &LayerPath, meta: &Meta) -> Result<(), StageError> {
        self.has_setgid |= meta.mode & SETGID != 0;
        let dressed = self.beneath.dir(path.as_bytes()).and_then(|dir| inode::set_access(dir, Kind::Dir, meta));
        dressed.map_err(at("set the metadata of", &self.beneath.host(path)))?;
        Ok(())
    }

    /// Removes the attributes of an earlier `add_dir`.
    fn undress_dir(&mut self, path: &LayerPath) -> Result<(), StageError> {
        let undressed = self.beneath.dir(path.as_bytes()).and_then(inode::undress);
        undressed.map_err(at("set the metadata of", &self.beneath.host(path)))?;
        Ok(())
    }

    /// Sets the constant mtime of every directory, after the last entry was added.
    pub(crate) fn set_dir_times(&mut self) -> Result<(), PathError> {
        let recorded = self.drafts.iter().filter(|(_, draft)| matches!(draft.node, DraftNode::Dir { .. }));
        let times = inode::times(normal::CONSTANT_MTIME_SECS);
        for path in recorded.map(|(path, _)| path).chain(&self.unrecorded) {
            let parent = self.beneath.parent(path);
            let set = parent.and_then(|dir| fs::utimensat(dir, path.name(), &times, AtFlags::SYMLINK_NOFOLLOW));
            set.map_err(at("set the time of", &self.beneath.host(path)))?;
        }
        Ok(())
    }
}

/// Copies a file from another file system, and removes it there.
fn copy_in(from: &Path, dir: BorrowedFd<'_>, path: &LayerPath) -> Result<(), Errno> {
    let io = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut source = std::fs::File::from(fs::open(from, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut copy = std::fs::File::from(fs::openat(dir, path.name(), flags, inode::mode_of(0o600))?);
    io::copy(&mut source, &mut copy).map_err(io)?;
    fs::unlink(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Modes that a umask takes away, special bits, and directories that give a bit to others made in them.
    #[test]
    fn entries_have_their_modes_whatever_is_kept_at_their_creation() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let path = |text: &str| LayerPath::parse(text.as_bytes()).unwrap();
        let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 1, xattrs: Default::default() };
        let files = [("a", 0o644), ("b", 0o755), ("c", 0o666), ("d", 0o4755), ("e", 0o444), ("f", 0o000), ("s/t/g", 0o600)];
        let dirs = [("o", 0o755), ("p", 0o1777), ("q", 0o770), ("s", 0o2775), ("s/t", 0o755), ("s/t/u", 0o2755)];
        for kept in [None, Some(0), Some(0o700)] {
            let mut stage = store.stage().unwrap();
            assert_ne!(stage.kept_modes & 0o700, 0, "the umask of the tests takes the owner's permissions away");
            stage.kept_modes = kept.unwrap_or(stage.kept_modes);
            for (name, mode) in dirs {
                stage.add_dir(&path(name), &meta(mode)).unwrap();
            }
            stage.add_file(&path("i/j/k"), &meta(0o644), &mut &b"x"[..], 1).unwrap();
            for (name, mode) in files {
                stage.add_file(&path(name), &meta(mode), &mut &b"x"[..], 1).unwrap();
            }
            stage.set_dir_times().unwrap();
            let tree = stage.scratch.dir().join(TREE);
            for (name, mode) in files.into_iter().chain(dirs).chain([("i", 0o755), ("i/j", 0o755), ("i/j/k", 0o644)]) {
                let found = std::fs::symlink_metadata(tree.join(name)).unwrap();
                assert_eq!(found.permissions().mode() & 0o7777, mode | 0o400, "{name}, {kept:?}");
                let expect = if found.is_dir() { normal::CONSTANT_MTIME_SECS } else { 1 };
                assert_eq!(std::os::unix::fs::MetadataExt::mtime(&found), expect, "{name}");
            }
            assert_eq!(std::fs::metadata(&tree).unwrap().permissions().mode() & 0o7777, 0o700);
        }
    }
}
