//! Removes a file tree safely while other programs may change it.
//!
//! Everything is opened and removed relative to its parent directory. No symlink is followed and no mount point is entered, so nothing
//! outside the tree is changed, even if a program replaces parts of the tree during the removal. Directories without write permission get
//! it first. At most [`MAX_OPEN`] directories are open; deeper ones are moved to the top of the tree and removed from there.

use crate::inode::{mode_of, permissions};
use crate::path_error::{PathError, at};
use crate::system;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Limit of open directories: few, compared with the usual limit of 1,024 file descriptors.
const MAX_OPEN: usize = 16;
/// Limit of entries listed at a time: about ten megabytes of names.
const MAX_LISTED: usize = 1 << 18;
/// Limit of passes over a directory that keeps getting new entries.
const MAX_PASSES: u32 = 8;
/// Limit of removed entries: far above any real tree, and an end if a program creates files faster than they are removed.
const MAX_ENTRIES: u64 = 100_000_000;
/// Prefix of the names of directories that were moved to the top of their tree.
const MOVED: &str = ".silo-removed-";

/// Removes a file, a symlink or a directory with everything below it. A missing path is not an error.
pub fn remove_tree(path: &Path) -> Result<(), PathError> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(at("remove", path)(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    match fs::open(above, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(dir) => remove_at(dir.as_fd(), name, path),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(at("open", above)(error)),
    }
}

/// Removes `name` from an open directory; `path` is its name in messages.
pub fn remove_at(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), PathError> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // The error for a directory differs between systems.
        Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS) => {}
        Err(error) => return Err(at("remove", path)(error)),
    }
    let top = match enter(dir, name) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        // Not a directory, so report the error of the first call.
        Err(Errno::NOTDIR | Errno::LOOP) => return fs::unlinkat(dir, name, AtFlags::empty()).map_err(|error| refused(error, path)),
        Err(error) => return Err(refused(error, path)),
    };
    let mut removal = Removal { path, moved: Vec::new(), entries: 0, failed: None };
    let mut passes = 0;
    while passes < MAX_PASSES {
        passes += u32::from(!removal.empty(top.as_fd())?);
        match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => match removal.failed.take() {
                Some(failed) => return Err(failed),
                None => continue,
            },
            Err(error) => return Err(refused(error, path)),
        }
    }
    Err(busy(path))
}

/// State of one removal.
struct Removal<'a> {
    path: &'a Path,
    /// Names of directories from deep levels that were moved to the top directory.
    moved: Vec<OsString>,
    entries: u64,
    /// The first error.
    failed: Option<PathError>,
}

/// A directory that is being emptied.
struct Level {
    name: OsString,
    fd: OwnedFd,
    /// The entries at the time of the listing; later ones need another pass.
    listed: Vec<(OsString, FileType)>,
    /// True if the directory has more entries than the limit of a listing.
    has_more: bool,
    passes: u32,
    /// True if an entry could not be removed.
    stuck: bool,
}

impl Level {
    fn open(name: OsString, fd: OwnedFd, passes: u32) -> Result<Level, Errno> {
        let mut listed = Vec::new();
        let mut has_more = false;
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if listed.len() == MAX_LISTED {
                has_more = true;
                break;
            }
            if name != "." && name != ".." {
                listed.push((name.to_owned(), entry.file_type()));
            }
        }
        Ok(Level { name, fd, listed, has_more, passes, stuck: false })
    }
}

impl Removal<'_> {
    /// Walks once through the tree below an open directory and removes entries; returns true if there were more than the limit of a
    /// listing.
    fn empty(&mut self, top: BorrowedFd<'_>) -> Result<bool, PathError> {
        let top = top.try_clone_to_owned().map_err(at("open", self.path))?;
        let mut levels = vec![Level::open(OsString::new(), top, 0).map_err(at("list", self.path))?];
        let has_more = levels[0].has_more;
        while let Some(level) = levels.last_mut() {
            match level.listed.pop() {
                Some((name, kind)) => self.entry(&mut levels, name, kind)?,
                None if levels.len() == 1 && !self.moved.is_empty() => {
                    let name = self.moved.pop().unwrap_or_default();
                    self.descend(&mut levels, name, 0);
                }
                None => self.leave(&mut levels),
            }
        }
        Ok(has_more)
    }

    fn entry(&mut self, levels: &mut Vec<Level>, name: OsString, kind: FileType) -> Result<(), PathError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(busy(self.path));
        }
        if kind == FileType::Directory {
            self.descend(levels, name, 0);
            return Ok(());
        }
        let Some(level) = levels.last() else { return Ok(()) };
        match fs::unlinkat(&level.fd, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // The file system may not report entry types, and a directory may have replaced the entry.
            Err(Errno::ISDIR) => self.descend(levels, name, 0),
            Err(Errno::PERM) if kind == FileType::Unknown => self.descend(levels, name, 0),
            Err(error) => {
                let path = self.shown(levels, &name);
                self.stays(levels, refused(error, &path));
            }
        }
        Ok(())
    }

    /// Enters a directory, or moves it to the top if it is too deep.
    fn descend(&mut self, levels: &mut Vec<Level>, name: OsString, passes: u32) {
        let Some(level) = levels.last() else { return };
        let done = match levels.len() {
            MAX_OPEN.. => self.move_up(level, &levels[0], &name).map(|()| None),
            _ => enter(level.fd.as_fd(), &name).and_then(|fd| Level::open(name.clone(), fd, passes)).map(Some),
        };
        match done {
            Ok(deeper) => levels.extend(deeper),
            Err(Errno::NOENT) => {}
            Err(error) => {
                let path = self.shown(levels, &name);
                self.stays(levels, refused(error, &path));
            }
        }
    }

    fn move_up(&mut self, level: &Level, top: &Level, name: &OsStr) -> Result<(), Errno> {
        // Moving a directory changes its `..` entry, so it must be writable.
        permit(level.fd.as_fd(), name)?;
        loop {
            let to = OsString::from(format!("{MOVED}{}", self.entries));
            match fs::renameat_with(&level.fd, name, &top.fd, &to, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => self.entries += 1,
                Ok(()) => {
                    self.moved.push(to);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves a finished directory and removes it, or walks it again.
    fn leave(&mut self, levels: &mut Vec<Level>) {
        let Some(level) = levels.pop() else { return };
        let Some(above) = levels.last_mut() else { return };
        above.stuck |= level.stuck;
        match fs::unlinkat(&above.fd, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.stuck => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.has_more || level.passes < MAX_PASSES => {
                let passes = if level.has_more { level.passes } else { level.passes + 1 };
                self.descend(levels, level.name, passes);
            }
            Err(error) => {
                let path = self.shown(levels, &level.name);
                let error = if matches!(error, Errno::NOTEMPTY | Errno::EXIST) { busy(&path) } else { refused(error, &path) };
                self.stays(levels, error);
            }
        }
    }

    /// Records a failure; the removal of other entries continues.
    fn stays(&mut self, levels: &mut [Level], error: PathError) {
        if let Some(level) = levels.last_mut() {
            level.stuck = true;
        }
        self.failed.get_or_insert(error);
    }

    fn shown(&self, levels: &[Level], name: &OsStr) -> PathBuf {
        let above = levels.iter().skip(1).fold(self.path.to_owned(), |path, level| path.join(&level.name));
        if name.is_empty() { above } else { above.join(name) }
    }
}

/// Opens a directory to empty it, and adds the needed permissions.
fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let fd = match system::open_dir(dir, Path::new(name)) {
        Err(Errno::ACCESS) => {
            permit(dir, name)?;
            system::open_dir(dir, Path::new(name))?
        }
        opened => opened?,
    };
    let mode = permissions(&fs::fstat(&fd)?);
    if mode & 0o700 != 0o700 {
        // If the mode cannot be changed, the removal reports the error.
        let _ = fs::fchmod(&fd, mode_of(mode | 0o700));
    }
    Ok(fd)
}

fn permit(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    system::change_mode(dir, Path::new(name), |mode| mode | 0o700)
}

/// Converts an error to one that names the remedy.
fn refused(error: Errno, path: &Path) -> PathError {
    let source = match error {
        Errno::XDEV | Errno::BUSY => io::Error::new(io::ErrorKind::ResourceBusy, "another file system is mounted there; unmount it first"),
        Errno::PERM => io::Error::new(io::ErrorKind::PermissionDenied, "not permitted; `lsattr -d` shows if it is immutable"),
        other => other.into(),
    };
    at("remove", path)(source)
}

fn busy(path: &Path) -> PathError {
    at("remove", path)(io::Error::new(io::ErrorKind::ResourceBusy, "a program keeps writing there; stop it first"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self as files, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn mode(path: &Path, mode: u32) {
        files::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn nothing_that_a_link_leads_to_is_touched() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        files::create_dir(&outside).unwrap();
        files::write(outside.join("kept"), "kept").unwrap();
        mode(&outside, 0o500);
        let tree = place.path().join("tree");
        files::create_dir_all(tree.join("a/closed/in")).unwrap();
        files::write(tree.join("a/closed/in/file"), "").unwrap();
        for link in ["out", "a/out", "a/closed/in/out"] {
            symlink(&outside, tree.join(link)).unwrap();
        }
        symlink(outside.join("kept"), tree.join("a/file")).unwrap();
        mode(&tree.join("a/closed/in"), 0o000);
        mode(&tree.join("a/closed"), 0o100);
        mode(&tree.join("a"), 0o500);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(files::read(outside.join("kept")).unwrap(), b"kept");
        assert_eq!(files::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o500);
        symlink(&outside, &tree).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(outside.join("kept").exists() && tree.symlink_metadata().is_err());
        mode(&outside, 0o700);
    }

    #[test]
    fn a_tree_may_be_deeper_than_a_path_can_name() {
        // Use a tmpfs if there is one: a disk is slow for so many directories.
        let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let top = place.path().join("tree");
        files::create_dir(&top).unwrap();
        let mut here = fs::open(&top, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for level in 0..10_000 {
            fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            drop(fs::openat(&here, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            let next = fs::openat(&here, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            if level % 100 == 7 {
                fs::fchmod(&here, Mode::RUSR | Mode::XUSR).unwrap();
            }
            here = next;
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_directory_that_goes_on_growing_ends_in_an_error_or_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("tree");
        files::create_dir_all(top.join("in")).unwrap();
        let stop = AtomicBool::new(false);
        let inner = fs::open(top.join("in"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let _ = fs::openat(&inner, format!("{number}"), OFlags::CREATE | OFlags::WRONLY, Mode::RUSR);
                }
            });
            let done = remove_tree(&top);
            stop.store(true, Ordering::Relaxed);
            match done {
                Ok(()) => assert!(!top.exists()),
                Err(error) => assert!(error.source.to_string().contains("keeps writing"), "{error}: {}", error.source),
            }
        });
    }
}
