//! Opening things beneath a directory, never through a link and never outside it.
//!
//! Each component is opened relative to the one before with `O_NOFOLLOW`; a [`LayerPath`] holds
//! no `..` and no slash at its start, so this is what openat2's `RESOLVE_BENEATH |
//! RESOLVE_NO_SYMLINKS` gives, on every Unix. The directories on the way to the last parent
//! stay open: neighbours in an archive share most of it, so an entry costs one open or none.

use crate::path::LayerPath;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A directory that paths are resolved beneath.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
    root_path: PathBuf,
    /// Open directories, each inside the one before, with their paths.
    levels: Vec<(Vec<u8>, OwnedFd)>,
}

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Beneath {
    /// Opens the directory `root`.
    pub(crate) fn open(root: &Path) -> Result<Beneath, Errno> {
        Ok(Beneath { root: fs::openat(fs::CWD, root, DIR_FLAGS, Mode::empty())?, root_path: root.to_path_buf(), levels: Vec::new() })
    }

    /// Returns the host path of `path`, for messages.
    pub(crate) fn host(&self, path: &LayerPath) -> PathBuf {
        self.root_path.join(path.as_path())
    }

    /// Returns the directory that holds `path`, open.
    pub(crate) fn parent(&mut self, path: &LayerPath) -> Result<BorrowedFd<'_>, Errno> {
        match path.parent_bytes() {
            Some(dir) => self.dir(dir),
            None => Ok(self.root.as_fd()),
        }
    }

    /// Returns the directory at `dir`, the bytes of a path, open.
    pub(crate) fn dir(&mut self, dir: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        let holds = |level: &[u8]| dir.starts_with(level) && matches!(dir.get(level.len()), None | Some(b'/'));
        while self.levels.last().is_some_and(|(path, _)| !holds(path)) {
            self.levels.pop();
        }
        let mut done = self.levels.last().map_or(0, |(path, _)| path.len());
        while done < dir.len() {
            let start = if done == 0 { 0 } else { done + 1 };
            let end = dir[start..].iter().position(|byte| *byte == b'/').map_or(dir.len(), |at| start + at);
            let above = self.levels.last().map_or_else(|| self.root.as_fd(), |(_, fd)| fd.as_fd());
            let fd = fs::openat(above, &dir[start..end], DIR_FLAGS, Mode::empty())?;
            self.levels.push((dir[..end].to_vec(), fd));
            done = end;
        }
        Ok(self.levels.last().map_or_else(|| self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// Opens a regular file to read; anything else standing there is an error.
    pub(crate) fn file(&mut self, path: &LayerPath) -> Result<File, Errno> {
        // Without NONBLOCK a fifo put here by someone else would block for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = fs::openat(self.parent(path)?, path.name(), flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Returns what stands at `path`, a link itself and not its target.
    pub(crate) fn stat(&mut self, path: &LayerPath) -> Result<fs::Stat, Errno> {
        fs::statat(self.parent(path)?, path.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Closes the remembered directories; needed when one of them was removed.
    pub(crate) fn forget(&mut self) {
        self.levels.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("b", dir.path().join("a/in")).unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("a/b/link")).unwrap();
        let mut beneath = Beneath::open(dir.path()).unwrap();
        for (path, opens) in [
            ("a/b/file", true),
            ("a/in/file", false),
            ("out/secret", false),
            ("a/b/link", false),
            ("a/b/file/x", false),
            ("a/b/file", true),
        ] {
            let path = LayerPath::parse(path.as_bytes()).unwrap();
            assert_eq!(beneath.file(&path).is_ok(), opens, "{path}");
        }
    }
}
