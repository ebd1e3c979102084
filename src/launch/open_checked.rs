//! Opens host files and directories so that the checked file is the one that gets mounted.
//!
//! A path is opened once, component by component, each relative to the directory before it. A symlink is followed only if the caller allows
//! it, by the symlink's own path. The caller checks the file descriptor; [`Opened::host`] names the file in a launch spec, and the launcher
//! refuses to mount any other.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::host::system;
use super::spec::host_path::{HostPath, Inode};

/// Most symlinks followed on one path, as on Linux.
const MAX_LINKS: usize = 40;

/// An open file or directory of the host.
///
/// Its inode number is not reused while this value lives. Keep it until the launch with [`Opened::host`] has started.
#[derive(Debug)]
pub struct OpenedPath {
    path: PathBuf,
    stat: Stat,
    fd: OwnedFd,
}

/// The symlinks on a path that are followed.
#[derive(Clone, Copy)]
pub enum Links<'a> {
    /// None: a symlink is an error.
    Refuse,
    /// Symlinks with a path for which this returns true; any other is an error.
    If(&'a dyn Fn(&Path) -> bool),
}

/// The reason why a path could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot open {path}", path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A symlink that must not be followed.
    #[error("{path} is a symlink", path = .path.display())]
    Link {
        /// The symlink.
        path: PathBuf,
    },
    /// The path leaves the directory that it must be in.
    #[error("{path} is not below its directory", path = .path.display())]
    Outside {
        /// The path.
        path: PathBuf,
    },
}

impl OpenedPath {
    /// Opens an absolute path.
    pub fn open(path: &Path, links: Links<'_>) -> Result<OpenedPath, Error> {
        let root = open_at(CWD, Path::new("/"), Path::new("/"))?;
        walk(root, path.strip_prefix("/").unwrap_or(path), links)
    }

    /// Opens a path below this directory, without following symlinks and without leaving the directory.
    pub fn below(&self, path: &Path) -> Result<OpenedPath, Error> {
        if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(Error::Outside { path: self.path.join(path) });
        }
        let here = open_at(self.fd.as_fd(), Path::new("."), &self.path)?;
        walk(here, path, Links::Refuse)
    }

    /// Returns the opened path, in which no component is a symlink.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names the file for a launch spec.
    pub fn host(&self) -> HostPath {
        HostPath::opened(self.path.clone(), self.inode())
    }

    /// Returns the file's identity.
    pub fn inode(&self) -> Inode {
        inode(&self.stat)
    }

    /// True for a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// True for a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

impl AsFd for OpenedPath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Returns the identity of an open file.
#[allow(clippy::unnecessary_cast, reason = "the fields have other types on macOS")]
pub fn inode(stat: &Stat) -> Inode {
    Inode { device: stat.st_dev as u64, number: stat.st_ino as u64 }
}

fn open_at(dir: BorrowedFd<'_>, name: &Path, shown: &Path) -> Result<OpenedPath, Error> {
    let open = || -> Result<OpenedPath, Errno> {
        let fd = openat(dir, name, system::PLACE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        Ok(OpenedPath { path: shown.to_owned(), stat: fstat(&fd)?, fd })
    };
    open().map_err(|error| Error::Open { path: shown.to_owned(), source: error.into() })
}

/// Opens a path relative to a directory.
fn walk(from: OpenedPath, path: &Path, links: Links<'_>) -> Result<OpenedPath, Error> {
    let mut to_go: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut trail = vec![from];
    let mut followed = 0;
    while let Some(name) = to_go.pop_front() {
        let Some(here) = trail.last() else { break };
        match name.as_bytes() {
            b"." => continue,
            b"/" => trail.truncate(1),
            b".." if trail.len() > 1 => drop(trail.pop()),
            // The root's parent is the root.
            b".." => {}
            _ => {
                let shown = here.path.join(&name);
                match next(here, Path::new(&name), &shown)? {
                    Step::There(opened) => trail.push(opened),
                    Step::Link(target) => {
                        let follows = matches!(links, Links::If(may_follow) if may_follow(&shown));
                        followed += 1;
                        if !follows || followed > MAX_LINKS {
                            return Err(Error::Link { path: shown });
                        }
                        for part in target.components().rev() {
                            to_go.push_front(part.as_os_str().to_owned());
                        }
                    }
                }
            }
        }
    }
    trail.pop().ok_or_else(|| Error::Outside { path: path.to_owned() })
}

enum Step {
    There(OpenedPath),
    Link(PathBuf),
}

fn next(dir: &OpenedPath, name: &Path, shown: &Path) -> Result<Step, Error> {
    match open_at(dir.as_fd(), name, shown) {
        Ok(opened) if opened.kind() != FileType::Symlink => Ok(Step::There(opened)),
        // A system that cannot open a symlink itself reports ELOOP for one.
        Err(Error::Open { source, .. }) if source.raw_os_error() != Some(Errno::LOOP.raw_os_error()) => {
            Err(Error::Open { path: shown.to_owned(), source })
        }
        Err(error @ (Error::Link { .. } | Error::Outside { .. })) => Err(error),
        Ok(_) | Err(Error::Open { .. }) => {
            let target =
                readlinkat(dir.as_fd(), name, Vec::new()).map_err(|error| Error::Open { path: shown.to_owned(), source: error.into() })?;
            Ok(Step::Link(PathBuf::from(OsString::from_vec(target.into_bytes()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn symlinks_are_followed_only_where_the_caller_says_so() {
        let place = tempfile::tempdir().expect("a directory");
        let top = fs::canonicalize(place.path()).expect("it is there");
        fs::create_dir_all(top.join("home/real")).expect("made");
        fs::create_dir_all(top.join("project")).expect("made");
        fs::write(top.join("home/real/key"), "secret").expect("written");
        symlink("real", top.join("home/link")).expect("made");
        symlink(top.join("home/real"), top.join("home/absolute")).expect("made");
        symlink("../home/real/key", top.join("project/planted")).expect("made");
        symlink("loop", top.join("home/loop")).expect("made");
        let in_home = |link: &Path| link.starts_with(top.join("home"));
        for (path, refusing, following) in [
            ("home/real/key", true, true),
            ("home/link/key", false, true),
            ("home/absolute/key", false, true),
            ("home/link/../real/key", false, true),
            ("project/planted", false, false),
            ("home/loop", false, false),
            ("home/none", false, false),
            ("home/real/key/x", false, false),
        ] {
            assert_eq!(OpenedPath::open(&top.join(path), Links::Refuse).is_ok(), refusing, "{path}");
            let opened = OpenedPath::open(&top.join(path), Links::If(&in_home));
            assert_eq!(opened.is_ok(), following, "{path}");
            if let Ok(opened) = opened {
                assert_eq!(opened.path(), top.join("home/real/key"), "{path}");
                assert!(opened.is_file() && !opened.is_dir(), "{path}");
            }
        }
    }

    #[test]
    fn a_path_below_a_directory_stays_there() {
        let place = tempfile::tempdir().expect("a directory");
        let top = fs::canonicalize(place.path()).expect("it is there");
        fs::create_dir_all(top.join("p/conf")).expect("made");
        fs::write(top.join("p/conf/a"), "plain").expect("written");
        fs::write(top.join("key"), "secret").expect("written");
        symlink("../key", top.join("p/out")).expect("made");
        symlink("conf", top.join("p/in")).expect("made");
        let project = OpenedPath::open(&top.join("p"), Links::Refuse).expect("a project");
        for (path, expect) in [
            ("conf/a", true),
            ("./conf/a", true),
            ("out", false),
            ("in/a", false),
            ("../key", false),
            ("/key", false),
            ("conf/../../key", false),
        ] {
            assert_eq!(project.below(Path::new(path)).is_ok(), expect, "{path}");
        }
        // An open file keeps its identity after another file takes its name.
        let before = project.below(Path::new("conf/a")).expect("a file").inode();
        fs::rename(top.join("p/conf/a"), top.join("p/conf/b")).expect("moved");
        fs::write(top.join("p/conf/a"), "other").expect("written");
        assert_ne!(project.below(Path::new("conf/a")).expect("a file").inode(), before);
    }
}
