//! Opens files below a directory, never through a symlink and never outside it.
//!
//! Each component is opened relative to the previous one with `O_NOFOLLOW`. A [`LayerPath`] has no `..` and no leading slash, so this
//! equals openat2 with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, on every Unix. The directories up to the last parent stay open: neighbours
//! in an archive share most of their path, so an entry costs one open or none.

use crate::path::LayerPath;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// PATH_MAX: a system call rejects paths of this length or longer.
const MAX_HOST_BYTES: usize = 4096;

/// A directory with cached file descriptors of directories below it.
#[derive(Debug)]
pub(crate) struct Beneath {
    root: OwnedFd,
    root_path: PathBuf,
    /// Open directories, each inside the previous one, with their paths.
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

    /// Returns a host path shorter than PATH_MAX: through `/proc/self/fd` if the full path is too long. Valid until the next call.
    pub(crate) fn reach(&mut self, path: &LayerPath) -> Result<PathBuf, Errno> {
        let host = self.host(path);
        if host.as_os_str().len() < MAX_HOST_BYTES {
            return Ok(host);
        }
        let dir = self.parent(path)?.as_raw_fd();
        Ok(Path::new("/proc/self/fd").join(dir.to_string()).join(OsStr::from_bytes(path.name())))
    }

    /// Opens the parent directory of `path`.
    pub(crate) fn parent(&mut self, path: &LayerPath) -> Result<BorrowedFd<'_>, Errno> {
        match path.parent_bytes() {
            Some(dir) => self.dir(dir),
            None => Ok(self.root.as_fd()),
        }
    }

    /// Opens the directory at `dir`, the bytes of a path.
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

    /// Opens a file for reading, without following a symlink at `path`.
    pub(crate) fn file(&mut self, path: &LayerPath) -> Result<File, Errno> {
        // Without NONBLOCK, a fifo put here by another process would block forever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = fs::openat(self.parent(path)?, path.name(), flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Returns the metadata of `path`; a symlink is not followed.
    pub(crate) fn stat(&mut self, path: &LayerPath) -> Result<fs::Stat, Errno> {
        fs::statat(self.parent(path)?, path.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Closes the cached directories; needed after one of them is removed.
    pub(crate) fn forget(&mut self) {
        self.levels.clear();
    }
}

/// Returns a host path shorter than PATH_MAX for `path` below `root`; valid while `open` is alive.
pub(crate) fn reached(root: &Path, path: &LayerPath, open: &mut Option<Beneath>) -> Result<PathBuf, Errno> {
    let host = root.join(path.as_path());
    match host.as_os_str().len() < MAX_HOST_BYTES {
        true => Ok(host),
        false => open.insert(Beneath::open(root)?).reach(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_deep_paths_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let mut beneath = Beneath::open(dir.path()).unwrap();
        let name = vec![b'n'; 200];
        let mut path = LayerPath::parse(&name).unwrap();
        while path.as_bytes().len() < 3900 {
            fs::mkdirat(beneath.parent(&path).unwrap(), path.name(), Mode::RWXU).unwrap();
            path = path.join(&name).unwrap();
        }
        let path = path.join(b"file").unwrap();
        let above = path.parent().unwrap();
        fs::mkdirat(beneath.parent(&above).unwrap(), above.name(), Mode::RWXU).unwrap();
        let root = dir.path().join("x".repeat(200 - dir.path().as_os_str().len() % 100));
        assert!(root.join(path.as_path()).as_os_str().len() >= MAX_HOST_BYTES);
        std::fs::rename(dir.path().join(std::ffi::OsStr::from_bytes(&name)), dir.path().join("moved")).unwrap();
        std::fs::create_dir(&root).unwrap();
        std::fs::rename(dir.path().join("moved"), root.join(std::ffi::OsStr::from_bytes(&name))).unwrap();
        let mut open = None;
        std::fs::write(reached(&root, &path, &mut open).unwrap(), "x").unwrap();
        assert!(Beneath::open(&root).unwrap().file(&path).is_ok());
        crate::removal::remove_tree(&root).unwrap();
    }

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
