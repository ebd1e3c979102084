//! Resolves paths inside an image's root as a program there sees them: symlinks never leave the root.
//!
//! The author of an image chooses its symlinks. Resolving one on the host could expose any host file to the sandbox, or read forever from a
//! device.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use crate::{read_limited, system};

/// Limit of symlinks in one path, as in the kernel.
const MAX_LINKS: usize = 40;
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
// Without NONBLOCK, opening a fifo would block.
const LAST_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Reads a regular file of at most `most_bytes` bytes; anything else is an error.
pub fn read(root: &Path, path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    Root::open(root)?.read(path, most_bytes)
}

/// Lists the names in a directory, sorted.
pub fn list(root: &Path, path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::new(open(root, path)?)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// True if a path exists, even if it cannot be opened.
pub fn exists(root: &Path, path: &Path) -> bool {
    Root::open(root).is_ok_and(|root| root.has(path))
}

/// An opened root, for questions about several paths.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens a root.
    pub fn open(root: &Path) -> io::Result<Root> {
        Ok(Root(openat(CWD, root, DIR_FLAGS, Mode::empty())?))
    }

    /// True if a path exists, even if it cannot be opened: one system call where there is one, since every start of a tool asks for
    /// several paths.
    pub fn has(&self, path: &Path) -> bool {
        let found = system::find_in_root(&self.0, path).unwrap_or_else(|| walk(&self.0, path));
        found.map_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied, |_| true)
    }

    /// Reads a regular file of at most `most_bytes` bytes; anything else is an error.
    pub fn read(&self, path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
        read_limited::whole(File::from(self.file(path)?), most_bytes)
    }

    fn file(&self, path: &Path) -> io::Result<OwnedFd> {
        // Most of the files that a start asks for are absent.
        if let Some(Err(error)) = system::find_in_root(&self.0, path)
            && error.kind() == io::ErrorKind::NotFound
        {
            return Err(error);
        }
        walk(&self.0, path)
    }
}

fn open(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    Root::open(root)?.file(path)
}

fn walk(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    // The open directories below the root, each inside the previous one.
    let mut way: Vec<OwnedFd> = Vec::new();
    let mut ahead: VecDeque<OsString> = names(path).map(OsStr::to_owned).collect();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            way.pop();
            continue;
        }
        let here = way.last().unwrap_or(root);
        match readlinkat(here, &name, Vec::new()) {
            Ok(to) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let to = OsString::from_vec(to.into_bytes());
                if Path::new(&to).is_absolute() {
                    way.clear();
                }
                for name in names(Path::new(&to)).rev() {
                    ahead.push_front(name.to_owned());
                }
            }
            Err(Errno::INVAL) => {
                let flags = if ahead.is_empty() { LAST_FLAGS } else { DIR_FLAGS };
                let next = openat(here, &name, flags | OFlags::NOFOLLOW, Mode::empty())?;
                way.push(next);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match way.pop() {
        Some(last) => Ok(last),
        None => root.try_clone(),
    }
}

/// Returns the components of a path that change the directory: names and `..`.
pub fn names(path: &Path) -> impl DoubleEndedIterator<Item = &OsStr> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_lead_to_what_is_in_the_root() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::write(place.path().join("secret"), "secret").unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "12345").unwrap();
        fs::write(root.join("secret"), "inside").unwrap();
        let outside = place.path().join("secret");
        for (to, link) in [
            ("/a/b/file", "absolute"),
            ("b", "a/dir"),
            ("../../../../secret", "a/up"),
            (outside.to_str().unwrap(), "out"),
            ("..", "a/b/above"),
            ("loop", "loop"),
            ("/dev/zero", "device"),
            ("/", "top"),
        ] {
            symlink(to, root.join(link)).unwrap();
        }
        for (path, expect) in [
            ("a/b/file", Some("12345")),
            ("/a/b/file", Some("12345")),
            ("absolute", Some("12345")),
            ("a/dir/file", Some("12345")),
            ("top/top/a/dir/above/up", Some("inside")),
            ("../secret", Some("inside")),
            ("a/up", Some("inside")),
            ("out", None),
            ("loop", None),
            ("device", None),
            ("a/b/file/..", None),
            ("a/b/file/x", None),
            ("a", None),
            ("nothing", None),
        ] {
            let read = read(&root, Path::new(path), 6).ok();
            assert_eq!(read.as_deref(), expect.map(str::as_bytes), "{path}");
        }
        assert_eq!(read(&root, Path::new("a/b/file"), 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(list(&root, Path::new("a/dir/above")).unwrap(), ["b", "dir", "up"]);
        assert_eq!(list(&root, Path::new("top/..")).unwrap().len(), 7);
        assert!(list(&root, Path::new("secret")).is_err());
    }

    #[test]
    fn a_path_exists_only_within_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        std::fs::write(root.path().join("usr/bin/here"), "").unwrap();
        for (name, to) in
            [("bin", "usr/bin"), ("absolute", "/usr/bin"), ("outside", "/etc"), ("above", "../../../../etc"), ("loop", "loop")]
        {
            std::os::unix::fs::symlink(to, root.path().join(name)).unwrap();
        }
        for path in ["usr/bin/here", "/usr/bin/here", "bin/here", "absolute/here", "above/../usr/bin/here"] {
            let expect = !path.starts_with("above");
            assert_eq!((exists(root.path(), Path::new(path)), open(root.path(), Path::new(path)).is_ok()), (expect, expect), "{path}");
        }
        for path in ["outside/passwd", "above/passwd", "loop", "usr/bin/here/x", "no"] {
            assert!(!exists(root.path(), Path::new(path)), "{path}");
        }
    }
}
