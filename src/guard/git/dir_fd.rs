//! Directories by file descriptor. Another program may change these trees at any time, so paths are opened one component at a time without
//! following symlinks, and checks use the open descriptor.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Without NONBLOCK, opening a pipe would block.
const OPEN_FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

/// Returns the type and the permissions of a file, as the kernel encodes them.
#[allow(clippy::useless_conversion, reason = "the type of a mode is the system's own")]
pub fn mode_of(stat: &Stat) -> u32 {
    u32::from(stat.st_mode)
}

/// Type of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Link,
    /// An overlayfs whiteout: the entry of the lower layer is removed.
    Whiteout,
    /// A socket.
    Socket,
    /// A pipe or device.
    Other,
}

impl Dir {
    /// Opens the directory at a trusted path; its last component must not be a symlink.
    pub fn open(path: &Path) -> io::Result<Dir> {
        Ok(Dir(fs::open(path, OPEN_DIR, Mode::empty())?))
    }

    /// Opens a second descriptor of the same directory.
    pub fn again(&self) -> io::Result<Dir> {
        Ok(Dir(fs::openat(&self.0, ".", OPEN_DIR, Mode::empty())?))
    }

    /// Opens a directory below this one, without following symlinks.
    pub fn dir(&self, path: &Path) -> io::Result<Dir> {
        let mut at: Option<Dir> = None;
        for name in names(path)? {
            at = Some(Dir(fs::openat(&at.as_ref().unwrap_or(self).0, name, OPEN_DIR, Mode::empty())?));
        }
        at.map_or_else(|| self.again(), Ok)
    }

    /// Opens a directory below this one, creating missing directories.
    pub fn make(&self, path: &Path) -> io::Result<Dir> {
        let mut at = self.again()?;
        for name in names(path)? {
            match fs::mkdirat(&at.0, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = Dir(fs::openat(&at.0, name, OPEN_DIR, Mode::empty())?);
        }
        Ok(at)
    }

    /// Opens the parent directory of a path, and returns the last component.
    pub fn parent<'a>(&self, path: &'a Path) -> io::Result<(Dir, &'a OsStr)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.dir(path.parent().unwrap_or_else(|| Path::new("")))?, name))
    }

    /// Calls `work` with the parent directory of a path and its last component. Every start looks at some files of this directory itself,
    /// so it is not opened again for them.
    fn within<T>(&self, path: &Path, work: impl FnOnce(&OwnedFd, &OsStr) -> Result<T, Errno>) -> io::Result<T> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            None => Ok(work(&self.0, name)?),
            Some(parent) => Ok(work(&self.dir(parent)?.0, name)?),
        }
    }

    /// Returns the metadata of a path, without following a symlink; `None` if it does not exist.
    pub fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let found = self.within(path, |dir, name| fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW));
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the metadata of this directory.
    pub fn own_stat(&self) -> io::Result<Stat> {
        Ok(fs::fstat(&self.0)?)
    }

    /// Opens a regular file below this directory for reading; anything else is an error.
    pub fn file(&self, path: &Path) -> io::Result<(File, Stat)> {
        let file = self.within(path, |dir, name| fs::openat(dir, name, OPEN_FILE, Mode::empty()))?;
        let stat = fs::fstat(&file)?;
        match Kind::of(&stat) {
            Kind::File => Ok((File::from(file), stat)),
            Kind::Dir => Err(ErrorKind::IsADirectory.into()),
            Kind::Link | Kind::Whiteout | Kind::Socket | Kind::Other => {
                Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
            }
        }
    }

    /// Reads a regular file with at most this many bytes; `None` if it does not exist.
    pub fn read(&self, path: &Path, most_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.file(path) {
            Ok((file, _)) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most_bytes {
            return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most_bytes} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Reads a symlink.
    pub fn link(&self, path: &Path) -> io::Result<PathBuf> {
        let target = self.within(path, |dir, name| fs::readlinkat(dir, name, Vec::new()))?;
        Ok(OsStr::from_bytes(target.as_bytes()).into())
    }

    /// Lists the names in this directory, sorted; fails if there are more than `most`.
    pub fn list(&self, most: usize) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                if names.len() == most {
                    return Err(io::Error::new(ErrorKind::FileTooLarge, format!("a directory has more than {most} entries")));
                }
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Creates a file; fails if the name exists.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.0, name, flags, Mode::from_raw_mode(mode as fs::RawMode))?))
    }

    /// Writes a complete new file; fails if the name exists.
    pub fn write_new(&self, name: &OsStr, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut file = self.create(name, mode)?;
        let written = file.write_all(bytes);
        if written.is_err() {
            // The first error is returned.
            let _ = self.remove(name);
        }
        written
    }

    /// Syncs the contents of a regular file to disk.
    pub fn sync(&self, path: &Path) -> io::Result<()> {
        self.file(path)?.0.sync_data()
    }

    /// Appends to a regular file.
    pub fn append(&self, name: &OsStr, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        File::from(fs::openat(&self.0, name, flags, Mode::empty())?).write_all(bytes)
    }

    /// Renames an entry within this directory.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Hard-links a file of another directory; fails if the name exists.
    pub fn link_from(&self, other: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(fs::linkat(&other.0, from, &self.0, to, AtFlags::empty())?)
    }

    /// Removes a file.
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// True if overlayfs hides the lower layer's directory here.
    pub fn is_opaque(&self) -> bool {
        let mut value = [0u8; 4];
        // The attribute's name differs between mounts of an ordinary user and of root.
        ["user.overlay.opaque", "trusted.overlay.opaque"]
            .iter()
            .any(|name| fs::fgetxattr(&self.0, *name, &mut value[..]).is_ok_and(|len| value.get(..len) == Some(b"y")))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Kind {
    /// Returns the type of an entry.
    pub fn of(stat: &Stat) -> Kind {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice if stat.st_rdev == 0 => Kind::Whiteout,
            FileType::Socket => Kind::Socket,
            _ => Kind::Other,
        }
    }
}

/// True if an error means that the path does not exist.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Splits a relative path without `..` into its components.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let name = |part| match part {
        Component::Normal(name) => Ok(name),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "the path is absolute or has \"..\"")),
    };
    path.components().map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_is_reached_through_a_link_or_upwards() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        std::fs::create_dir_all(root.join("in/a")).expect("made");
        std::fs::write(root.join("secret"), "x").expect("written");
        std::fs::write(root.join("in/a/file"), "12345").expect("written");
        symlink("..", root.join("in/up")).expect("made");
        symlink("../secret", root.join("in/link")).expect("made");
        assert!(std::process::Command::new("mkfifo").arg(root.join("in/pipe")).status().is_ok_and(|status| status.success()));
        let dir = Dir::open(&root.join("in")).expect("there");
        assert_eq!(dir.read(Path::new("a/file"), 5).expect("read").as_deref(), Some(&b"12345"[..]));
        assert_eq!(dir.read(Path::new("a/none"), 5).expect("nothing"), None);
        for (path, most) in [("a/file", 4), ("up/secret", 9), ("link", 9), ("../secret", 9), ("pipe", 9), ("a", 9)] {
            assert!(!matches!(dir.read(Path::new(path), most), Ok(Some(_))), "{path}");
        }
        assert!(dir.make(Path::new("up/new")).is_err() && dir.dir(Path::new("up")).is_err());
        assert_eq!(dir.link(Path::new("link")).expect("a link"), Path::new("../secret"));
        assert!(dir.list(3).is_err());
        assert_eq!(dir.list(4).expect("listed"), ["a", "link", "pipe", "up"]);
    }
}
