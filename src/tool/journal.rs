//! Changes files written by people, such as `silo.toml` and `silo.lock`, atomically as a group.
//!
//! The change is first written to `~/.silo/journal/` by one rename, which commits it. If silo is killed before, nothing has changed; if it
//! is killed after, the next silo finishes the change. Each file is replaced by one rename. It keeps its permissions and its owner, and a
//! symlink to it stays a symlink.
//!
//! ```text
//! journal/new-<pid>-<number>   being written; held with flock(2) as long as its writer lives
//! journal/<pid>-<number>       a change that is being made; held in the same way
//! <dir>/.<file>.silo-<pid>-<number>   a file of that change, until it has its name
//! ```
//!
//! A file that somebody else changed in between is kept.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::private;

use silo_base::home::Home;
use silo_model::document;

/// The version of the format.
const VERSION: u32 = 1;
/// Prefix of the names of incomplete entries.
const UNFINISHED: &str = "new-";

/// One file of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The file itself, never a symlink to it.
    path: PathBuf,
    /// The current contents; `None` if there is no file.
    before: Option<String>,
    /// The new contents; `None` to remove the file.
    after: Option<String>,
}

impl Change {
    /// A change of the file at `path` from one text to another; symlinks are resolved.
    pub fn new(home: &Home, path: &Path, before: Option<String>, after: Option<String>) -> Result<Change, PathError> {
        Ok(Change { path: real(home, path)?, before, after })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The texts before and after; empty if there is no file.
    pub fn texts(&self) -> (&str, &str) {
        (self.before.as_deref().unwrap_or_default(), self.after.as_deref().unwrap_or_default())
    }

    /// Returns true if the change does anything.
    fn is_one(&self) -> bool {
        self.before != self.after
    }
}

/// A change in the journal's format.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    files: Vec<WrittenFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    /// Paths may have any bytes.
    path: Vec<u8>,
    before: Option<String>,
    after: Option<String>,
}

/// Returns the target of a path.
///
/// A dangling symlink is an error, because its contents are undefined. So is a symlink from outside into the home, which a sandboxed
/// program may have made.
pub fn real(home: &Home, path: &Path) -> Result<PathBuf, PathError> {
    let failed = |source| PathError { doing: "write", path: path.to_owned(), source };
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        let name = path.file_name().ok_or_else(|| failed(ErrorKind::InvalidInput.into()))?;
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        return Ok(fs::canonicalize(above).map_err(failed)?.join(name));
    }
    // A lock has a content that others choose, so it is a file of its own, and never one that a program made a symlink to.
    if !path.starts_with(home.root()) && path.extension().is_some_and(|extension| extension == "lock") {
        return Err(failed(io::Error::new(ErrorKind::PermissionDenied, "it is a symlink, and silo writes no lock through one; remove it")));
    }
    let real =
        fs::canonicalize(path).map_err(|error| failed(io::Error::new(error.kind(), format!("it is a dangling symlink: {error}"))))?;
    if !path.starts_with(home.root()) && fs::canonicalize(home.root()).is_ok_and(|home| real.starts_with(home)) {
        return Err(failed(io::Error::new(ErrorKind::PermissionDenied, "it is a symlink into silo's own directory; remove it")));
    }
    Ok(real)
}

/// Applies a change completely, or not at all if it fails.
pub fn commit(home: &Home, changes: &[Change]) -> Result<(), PathError> {
    let changes: Vec<&Change> = changes.iter().filter(|change| change.is_one()).collect();
    if changes.is_empty() {
        return Ok(());
    }
    // Report foreseeable failures before the commit.
    for change in &changes {
        open_above(&change.path)?;
        if document::text_of(&change.path).ok() != Some(change.before.clone()) {
            let source = io::Error::other("it was changed in between; check it and run the command again");
            return Err(PathError { doing: "write", path: change.path.clone(), source });
        }
    }
    let entry = Entry::write(home, &changes)?;
    for (at, change) in changes.iter().enumerate() {
        if let Err(error) = apply(change, &entry.number) {
            // Undo the failed one too: it may have failed after the rename.
            for done in changes[..=at].iter().rev() {
                let back = Change { path: done.path.clone(), before: done.after.clone(), after: done.before.clone() };
                // Report the first error.
                let _ = apply(&back, &entry.number);
            }
            entry.remove()?;
            return Err(error);
        }
    }
    entry.remove()
}

/// Finishes the changes of dead processes; returns their number.
pub fn finish_interrupted(home: &Home) -> Result<usize, PathError> {
    let dir = home.journal();
    let listing = match fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        listing => listing.map_err(|source| PathError { doing: "list", path: dir.clone(), source })?,
    };
    let mut settled = 0;
    let mut names: Vec<OsString> = listing.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let Some((entry, text)) = Entry::of_the_dead(&path)? else { continue };
        let written = serde_json::from_slice::<Written>(&text).ok().filter(|written| written.format == VERSION);
        if !name.as_bytes().starts_with(UNFINISHED.as_bytes()) {
            // An entry of a newer silo cannot be finished by this one.
            let Some(written) = written else { continue };
            finish(written, &entry.number)?;
            settled += 1;
        }
        entry.remove()?;
    }
    Ok(settled)
}

fn finish(written: Written, number: &str) -> Result<(), PathError> {
    let of = |file: WrittenFile| Change { path: OsString::from_vec(file.path).into(), before: file.before, after: file.after };
    let changes: Vec<Change> = written.files.into_iter().map(of).collect();
    let mut is_ours = true;
    for change in &changes {
        clear(&change.path, number);
        let now = document::text_of(&change.path).ok();
        is_ours &= now.is_some_and(|now| now == change.before || now == change.after);
    }
    // If a person has changed one of the files, leave all of them to that person.
    if is_ours {
        changes.iter().try_for_each(|change| apply(change, number))?;
    }
    Ok(())
}

/// Removes a temporary file of a killed process.
fn clear(path: &Path, number: &str) {
    if let (Ok(dir), Some(name)) = (open_above(path), path.file_name()) {
        // Usually there is none.
        let _ = rustix::fs::unlinkat(&dir, staged(name, number), AtFlags::empty());
    }
}

/// An entry of the journal.
struct Entry {
    path: PathBuf,
    /// Unique part of the entry's name, also used for the temporary files.
    number: String,
    _held: LockedFile,
}

impl Entry {
    fn write(home: &Home, changes: &[&Change]) -> Result<Entry, PathError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let dir = home.journal();
        private::make_dir(&dir)?;
        let file = |change: &&Change| WrittenFile {
            path: change.path.as_os_str().as_bytes().to_vec(),
            before: change.before.clone(),
            after: change.after.clone(),
        };
        let written = Written { format: VERSION, files: changes.iter().map(file).collect() };
        let text = serde_json::to_vec(&written).expect("texts and numbers are JSON");
        loop {
            let number = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
            let (unfinished, path) = (dir.join(format!("{UNFINISHED}{number}")), dir.join(&number));
            let failed = |doing| {
                let path = unfinished.clone();
                move |source| PathError { doing, path, source }
            };
            // A dead process may have had the same pid.
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let file = match private::create_new(&unfinished) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made.map_err(failed("create"))?,
            };
            let done = (|| -> io::Result<LockedFile> {
                let mut held = LockedFile::exclusive(file)?;
                held.write_all(&text)?;
                held.sync_all()?;
                fs::rename(&unfinished, &path)?;
                File::open(&dir)?.sync_all()?;
                Ok(held)
            })();
            match done {
                Ok(held) => return Ok(Entry { path, number, _held: held }),
                // Another silo considered the entry dead before it was locked.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    // Report the first error; the next silo removes leftovers.
                    let _ = fs::remove_file(&unfinished);
                    let _ = fs::remove_file(&path);
                    return Err(failed("write")(error));
                }
            }
        }
    }

    /// Opens an entry whose writer is dead, and reads its text; `None` if the writer is alive or the entry is gone.
    fn of_the_dead(path: &Path) -> Result<Option<(Entry, Vec<u8>)>, PathError> {
        let failed = |source| PathError { doing: "read", path: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let Some(mut held) = LockedFile::try_exclusive(file).map_err(failed)? else { return Ok(None) };
        let found = rustix::fs::fstat(&*held).map_err(|error| failed(error.into()))?;
        if found.st_nlink == 0 || !is_same(path, &found) {
            return Ok(None);
        }
        let mut text = Vec::new();
        held.read_to_end(&mut text).map_err(failed)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let number = name.strip_prefix(UNFINISHED).unwrap_or(&name).to_owned();
        Ok(Some((Entry { path: path.to_owned(), number, _held: held }, text)))
    }

    fn remove(self) -> Result<(), PathError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(PathError { doing: "remove", path: self.path, source: error }),
            _ => Ok(()),
        }
    }
}

/// Returns true if an open file still has this name: its writer may have renamed it.
fn is_same(path: &Path, found: &Stat) -> bool {
    rustix::fs::lstat(path).is_ok_and(|now| (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino))
}

fn open_above(path: &Path) -> Result<OwnedFd, PathError> {
    let above = path.parent().unwrap_or_else(|| Path::new("/"));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(above, flags, Mode::empty());
    opened.map_err(|error| PathError { doing: "open", path: above.to_owned(), source: error.into() })
}

/// Returns the name of the temporary file.
fn staged(name: &OsStr, number: &str) -> OsString {
    let mut staged = OsString::from(".");
    staged.push(name);
    staged.push(format!(".silo-{number}"));
    staged
}

/// Applies one change.
fn apply(change: &Change, number: &str) -> Result<(), PathError> {
    let failed = |error: Errno| PathError { doing: "write", path: change.path.clone(), source: error.into() };
    let dir = open_above(&change.path)?;
    let name = change.path.file_name().unwrap_or_default();
    match &change.after {
        Some(text) => replace(dir.as_fd(), name, &staged(name, number), text),
        None => match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            done => done,
        },
    }
    .and_then(|()| rustix::fs::fsync(&dir))
    .map_err(failed)
}

/// Replaces a file by one rename. A new file gets the permissions allowed by the umask and by its directory.
fn replace(dir: BorrowedFd<'_>, name: &OsStr, staged: &OsStr, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || rustix::fs::openat(dir, staged, flags, Mode::from_raw_mode(0o666));
    let fd = match make() {
        // A leftover of a killed process with the same pid.
        Err(Errno::EXIST) => rustix::fs::unlinkat(dir, staged, AtFlags::empty()).and_then(|()| make())?,
        made => made?,
    };
    let written = fill(dir, name, fd, text).and_then(|()| rustix::fs::renameat(dir, staged, dir, name));
    if written.is_err() {
        // Report the first error.
        let _ = rustix::fs::unlinkat(dir, staged, AtFlags::empty());
    }
    written
}

fn fill(dir: BorrowedFd<'_>, name: &OsStr, fd: OwnedFd, text: &str) -> Result<(), Errno> {
    let made = rustix::fs::fstat(&fd)?;
    let mode = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(old) if FileType::from_raw_mode(old.st_mode) == FileType::RegularFile => {
            if (old.st_uid, old.st_gid) != (made.st_uid, made.st_gid) {
                // Only root can keep another owner; for other users the file becomes theirs, as with any editor.
                let _ = rustix::fs::fchown(&fd, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid)));
            }
            old.st_mode & 0o777
        }
        _ => made.st_mode & 0o777 & (rustix::fs::fstat(dir)?.st_mode | 0o600),
    };
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    let mut file = File::from(fd);
    let done = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    done.map_err(|error: io::Error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn place() -> (tempfile::TempDir, Home, PathBuf) {
        let place = tempfile::tempdir().expect("a directory");
        let project = place.path().join("project");
        fs::create_dir(&project).expect("made");
        let home = Home::new(place.path().join("home"));
        (place, home, project)
    }

    fn read(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    fn changes(home: &Home, project: &Path) -> Vec<Change> {
        let change = |name: &str, before: Option<&str>, after: Option<&str>| {
            Change::new(home, &project.join(name), before.map(str::to_owned), after.map(str::to_owned)).expect("a change")
        };
        vec![change("silo.toml", Some("old"), Some("new")), change("silo.lock", None, Some("lock")), change("gone", Some("x"), None)]
    }

    fn lay(project: &Path) {
        fs::write(project.join("silo.toml"), "old").expect("written");
        fs::write(project.join("gone"), "x").expect("written");
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_change_keeps_the_symlink_and_mode_of_a_file() {
        let (place, home, project) = place();
        lay(&project);
        let dotfiles = place.path().join("dotfiles");
        fs::rename(project.join("silo.toml"), &dotfiles).expect("moved");
        fs::set_permissions(&dotfiles, fs::Permissions::from_mode(0o640)).expect("set");
        symlink(&dotfiles, project.join("silo.toml")).expect("linked");
        commit(&home, &changes(&home, &project)).expect("made");
        assert_eq!(read(&dotfiles).as_deref(), Some("new"));
        assert_eq!(fs::metadata(&dotfiles).expect("there").mode() & 0o777, 0o640);
        assert!(project.join("silo.toml").is_symlink());
        assert_eq!((names(&project), names(&home.journal())), (vec!["silo.lock".to_owned(), "silo.toml".to_owned()], Vec::new()));
        // A lock is never written through a symlink: a program can point it to any file.
        symlink(&dotfiles, project.join("t.py.lock")).expect("linked");
        let error = Change::new(&home, &project.join("t.py.lock"), None, None).expect_err("a symlink");
        assert!(error.to_string().contains("t.py.lock"), "{error}");
        symlink("nowhere", project.join("broken")).expect("linked");
        assert!(Change::new(&home, &project.join("broken"), None, Some(String::new())).is_err());
        fs::create_dir_all(home.root()).expect("made");
        fs::write(home.config(), "").expect("written");
        symlink(home.config(), project.join("own")).expect("linked");
        let error = Change::new(&home, &project.join("own"), None, Some(String::new())).expect_err("a program may have made it");
        assert!(error.source.to_string().contains("silo's own directory"), "{}", error.source);
    }

    #[test]
    fn the_next_silo_finishes_journaled_changes() {
        let (_place, home, project) = place();
        lay(&project);
        let all = changes(&home, &project);
        let all: Vec<&Change> = all.iter().collect();
        // Killed before the first file, after it, and during the second.
        for done in 0..=2 {
            lay(&project);
            let _ = fs::remove_file(project.join("silo.lock"));
            let entry = Entry::write(&home, &all).expect("written");
            assert_eq!(finish_interrupted(&home).expect("looked at"), 0, "its writer lives");
            all.iter().take(done).for_each(|change| apply(change, &entry.number).expect("made"));
            fs::write(project.join(staged(OsStr::new("silo.lock"), &entry.number)), "lo").expect("written");
            drop(entry);
            assert_eq!(finish_interrupted(&home).expect("settled"), 1);
            assert_eq!(
                (read(&project.join("silo.toml")).as_deref(), read(&project.join("silo.lock")).as_deref()),
                (Some("new"), Some("lock"))
            );
            assert_eq!((names(&project), names(&home.journal())), (vec!["silo.lock".to_owned(), "silo.toml".to_owned()], Vec::new()));
        }
    }

    #[test]
    fn later_edits_of_the_user_stay() {
        let (_place, home, project) = place();
        lay(&project);
        let all = changes(&home, &project);
        drop(Entry::write(&home, &all.iter().collect::<Vec<_>>()).expect("written"));
        fs::write(project.join("silo.toml"), "mine").expect("written");
        assert_eq!(finish_interrupted(&home).expect("settled"), 1);
        assert_eq!(read(&project.join("silo.toml")).as_deref(), Some("mine"));
        assert_eq!((names(&project), names(&home.journal())), (vec!["gone".to_owned(), "silo.toml".to_owned()], Vec::new()));
        fs::write(home.journal().join("new-1-1"), "{\"for").expect("written");
        fs::write(home.journal().join("1-2"), "{\"format\": 2}").expect("written");
        assert_eq!((finish_interrupted(&home).expect("settled"), names(&home.journal())), (0, vec!["1-2".to_owned()]));
    }

    #[test]
    fn a_change_that_fails_leaves_everything_as_it_was() {
        let (_place, home, project) = place();
        lay(&project);
        let mut all = changes(&home, &project);
        // A directory that is not empty blocks the last change.
        fs::create_dir_all(project.join("taken/x")).expect("made");
        all.push(Change::new(&home, &project.join("taken"), None, Some("x".to_owned())).expect("a change"));
        assert!(commit(&home, &all).is_err());
        assert_eq!((read(&project.join("silo.toml")).as_deref(), read(&project.join("gone")).as_deref()), (Some("old"), Some("x")));
        assert_eq!(
            (names(&project), names(&home.journal())),
            (vec!["gone".to_owned(), "silo.toml".to_owned(), "taken".to_owned()], Vec::new())
        );
    }
}
