//! Files and directories with access for their owner only, regardless of the umask.
//!
//! Everything in a home is made with these functions: it is private, or Silo obeys it. Opening a home tightens loose permissions and
//! rejects files of other users.

use crate::inode::{mode_of, permissions};
use crate::path_error::{PathError, at};
use crate::system;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The mode of a private directory.
const DIR_MODE: u32 = 0o700;
/// The mode of a private file.
const FILE_MODE: u32 = 0o600;
/// All permissions.
const ALL: u32 = 0o777;
/// The permissions of all other users.
const OTHERS: u32 = 0o077;
/// Permissions that allow other users to change a file.
const WRITE: u32 = 0o022;
/// Directories of files with the modes that a guest sees; other users cannot enter these directories.
const APART: [&str; 6] = ["baked", "images", "stage", "work", "kept", "reviews"];

/// Makes a directory and its parents; an existing one is not changed.
pub fn make_dir(dir: &Path) -> Result<(), PathError> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(at("create", dir))
}

/// Makes a private directory in a private one. Returns the permissions that the umask and inherited access lists keep for entries in it;
/// none if entries inherit other bits.
pub(crate) fn make_dir_for_modes(dir: &Path) -> Result<u32, PathError> {
    let made = fs::mkdirat(fs::CWD, dir, mode_of(ALL)).and_then(|()| fs::lstat(dir));
    let mode = permissions(&made.map_err(at("create", dir))?);
    fs::chmodat(fs::CWD, dir, mode_of(DIR_MODE), AtFlags::empty()).map_err(at("change the mode of", dir))?;
    Ok(if mode & !ALL == 0 { mode } else { 0 })
}

/// Creates a new file for writing; an existing one is an error.
pub fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Opens a file for reading and writing; creates it if missing.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)
}

/// Opens a lock file; creates it if missing. One on a read-only file system is opened for reading, which is enough to lock it.
pub fn open_lock(path: &Path) -> io::Result<File> {
    match open(path) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(path).map_err(|_| error),
        opened => opened,
    }
}

/// Creates or truncates a file for writing.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)
}

/// Writes a file; replaces existing contents.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Opens the home at `root`, which may be a symlink to a directory; creates it if missing.
///
/// It must belong to the caller. Other users' permissions on it and its contents are removed.
pub(crate) fn open_home(root: &Path) -> Result<(), PathError> {
    // Only the last directory is made: a mistyped HOME is an error.
    match DirBuilder::new().mode(DIR_MODE).create(root) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(at("create", root)(error)),
        _ => {}
    }
    let home = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(at("open", root))?;
    let found = fs::fstat(&home).map_err(at("inspect", root))?;
    let us = rustix::process::geteuid().as_raw();
    if found.st_uid != us {
        return Err(foreign(root, found.st_uid, "set HOME to a directory of your own"));
    }
    let mode = permissions(&found);
    if mode & OTHERS != 0 {
        let tightened = fs::fchmod(&home, mode_of(mode & !OTHERS));
        unless_read_only(tightened).map_err(at("change the mode of", root))?;
    }
    for name in names(home.as_fd()).map_err(at("list", root))? {
        let deep = if mode & WRITE != 0 { Depth::Always } else { Depth::WhereLoose };
        restrict(home.as_fd(), &name, &root.join(&name), us, deep)?;
    }
    Ok(())
}

/// Decides if a directory's contents are checked too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Always: other users could have written to a parent.
    Always,
    /// Only if other users can write to the directory itself.
    WhereLoose,
}

/// Removes other users' permissions on a home's contents, and rejects files of other users.
fn restrict(dir: BorrowedFd<'_>, name: &OsStr, path: &Path, us: u32, deep: Depth) -> Result<(), PathError> {
    let found = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        found => found.map_err(at("inspect", path))?,
    };
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind == FileType::Symlink {
        return check_link(dir, name, path, us);
    }
    // Files of root are trusted like our own.
    if found.st_uid != us && found.st_uid != 0 {
        return Err(foreign(path, found.st_uid, "remove it, or take ownership with chown"));
    }
    let mode = permissions(&found);
    if mode & OTHERS != 0 && found.st_uid == us {
        let tightened = system::change_mode(dir, Path::new(name), |mode| mode & !OTHERS);
        unless_read_only(tightened).map_err(at("change the mode of", path))?;
    }
    let is_deep = deep == Depth::Always || mode & WRITE != 0;
    if !is_deep || kind != FileType::Directory || APART.iter().any(|apart| path.ends_with(apart)) {
        return Ok(());
    }
    let inner = match system::open_dir(dir, Path::new(name)) {
        // It is a mount point, or was removed.
        Err(Errno::XDEV | Errno::NOENT) => return Ok(()),
        opened => opened.map_err(at("open", path))?,
    };
    for name in names(inner.as_fd()).map_err(at("list", path))? {
        restrict(inner.as_fd(), &name, &path.join(&name), us, Depth::Always)?;
    }
    Ok(())
}

/// Rejects a symlink whose target belongs to another user or is writable by others.
fn check_link(dir: BorrowedFd<'_>, name: &OsStr, path: &Path, us: u32) -> Result<(), PathError> {
    let found = match fs::statat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::NOTDIR) => return Ok(()),
        found => found.map_err(at("inspect", path))?,
    };
    if found.st_uid != us && found.st_uid != 0 {
        return Err(foreign(path, found.st_uid, "point the symlink at a file or directory of your own"));
    }
    if permissions(&found) & 0o002 != 0 {
        let what = "its target is writable by every user; run `chmod o-w` on the target";
        return Err(at("use", path)(io::Error::new(ErrorKind::PermissionDenied, what)));
    }
    Ok(())
}

fn foreign(path: &Path, owner: u32, cure: &str) -> PathError {
    at("use", path)(io::Error::new(ErrorKind::PermissionDenied, format!("it belongs to another user ({owner}); {cure}")))
}

/// On a read-only file system nobody can write, and permissions cannot be changed.
fn unless_read_only(done: Result<(), Errno>) -> Result<(), Errno> {
    if done == Err(Errno::ROFS) { Ok(()) } else { done }
}

/// Lists a directory without `.` and `..`.
fn names(dir: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn open_to_all(path: &Path) {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }

    #[test]
    fn a_loose_home_is_mended_with_what_is_in_it() {
        let place = tempfile::tempdir().unwrap();
        let (home, outside) = (place.path().join("home"), place.path().join("outside"));
        std::fs::create_dir_all(home.join("recipes/addons")).unwrap();
        std::fs::create_dir_all(home.join("baked/layer/tree")).unwrap();
        std::fs::write(home.join("recipes/addons/a.toml"), "").unwrap();
        std::fs::write(home.join("silo.toml"), "").unwrap();
        std::fs::write(&outside, "").unwrap();
        for loose in ["", "recipes", "recipes/addons", "recipes/addons/a.toml", "silo.toml", "baked/layer/tree"] {
            open_to_all(&home.join(loose));
        }
        symlink(&outside, home.join("recipes/link")).unwrap();
        open_home(&home).unwrap();
        for (path, expect) in [("", 0o700), ("recipes/addons", 0o700), ("recipes/addons/a.toml", 0o700), ("silo.toml", 0o700)] {
            assert_eq!(mode(&home.join(path)), expect, "{path}");
        }
        // Layers have the modes that guests see.
        assert_eq!(mode(&home.join("baked/layer/tree")), 0o777);
        assert_ne!(mode(&outside), 0o600, "nothing outside is changed");
    }

    #[test]
    fn a_home_may_be_a_link_and_is_not_made_deeply() {
        let place = tempfile::tempdir().unwrap();
        let real = place.path().join("real");
        std::fs::create_dir(&real).unwrap();
        open_to_all(&real);
        symlink(&real, place.path().join("link")).unwrap();
        open_home(&place.path().join("link")).unwrap();
        assert_eq!(mode(&real), 0o700);
        let deep = place.path().join("no/home");
        assert_eq!(open_home(&deep).unwrap_err().source.kind(), ErrorKind::NotFound);
        assert!(!place.path().join("no").exists());
    }

    #[test]
    fn symlinks_to_world_writable_directories_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let (home, shared) = (place.path().join("home"), place.path().join("shared"));
        std::fs::create_dir(&home).unwrap();
        std::fs::create_dir(&shared).unwrap();
        symlink(&shared, home.join("recipes")).unwrap();
        open_home(&home).unwrap();
        open_to_all(&shared);
        let error = open_home(&home).unwrap_err();
        assert!(error.path.ends_with("recipes") && error.source.to_string().contains("chmod o-w"), "{error}: {}", error.source);
        assert_eq!(mode(&shared), 0o777, "it is not ours to change");
    }
}
