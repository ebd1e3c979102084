//! Lists the changes of a layer: compares the upper directory of an overlay with the project.
//!
//! The upper directory is hostile. It is read by file descriptor, no symlink is followed, and the number of entries and the length of paths
//! are limited. Whiteouts and opaque directories become ordinary changes of single files, so later code does not know them. A file that the
//! layer has unchanged is no change.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use silo_guard::git::dir_fd::{Dir, Kind, mode_of};

use crate::base::Base;
use crate::error::{Error, at};
use crate::mark;

/// Maximum length of a path in bytes: system calls refuse longer ones.
const MAX_PATH_BYTES: usize = 4000;
/// Limits of one listing.
const LIMITS: Limits = Limits { entries: 1_000_000, path_bytes: 128 << 20, opened: 20_000_000 };

/// One change of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Path in the project.
    pub path: PathBuf,
    /// Kind of the change.
    pub what: What,
    /// The project's file; `None` if there is none.
    pub before: Option<Entry>,
    /// The layer's file; `None` if it is removed.
    pub after: Option<Entry>,
    /// Reason why the change cannot be applied.
    pub problem: Option<String>,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A new file, symlink or directory.
    Added,
    /// New content of a file.
    Changed,
    /// New permissions only.
    Mode,
    /// A new target of a symlink.
    Link,
    /// Removed; a directory with everything in it.
    Removed,
    /// Another type, such as a directory instead of a file.
    Replaced,
}

impl What {
    /// Returns the word for a person.
    pub fn word(self) -> &'static str {
        match self {
            What::Added => "added",
            What::Changed => "changed",
            What::Mode => "mode",
            What::Link => "link",
            What::Removed => "removed",
            What::Replaced => "replaced",
        }
    }
}

/// One file of the project or the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type of the file.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of hard links.
    pub links: u64,
    /// Inode number.
    pub inode: u64,
    /// Time of the last change of content or metadata, in nanoseconds since 1970.
    pub changed: i128,
    /// Target of a symlink.
    pub target: Option<PathBuf>,
}

impl Entry {
    #[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
    fn of(dir: &Dir, name: &Path, stat: &Stat) -> Entry {
        let kind = Kind::of(stat);
        let target = if kind == Kind::Link { dir.link(name).ok() } else { None };
        Entry {
            kind,
            mode: mode_of(stat) & 0o7777,
            size: stat.st_size as u64,
            links: stat.st_nlink as u64,
            inode: stat.st_ino as u64,
            changed: mark::changed(stat),
            target,
        }
    }

    /// True if a file is still in this state.
    #[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
    pub fn is_state_of(&self, stat: &Stat) -> bool {
        let is_same = self.inode == stat.st_ino as u64 && self.kind == Kind::of(stat);
        is_same && (self.kind == Kind::Dir || self.changed == mark::changed(stat))
    }

    /// True for a file that can be executed.
    pub fn is_executable(&self) -> bool {
        self.kind == Kind::File && self.mode & 0o111 != 0
    }
}

/// Inputs of a listing.
pub struct Given<'a> {
    /// The project.
    pub project: &'a Dir,
    /// The upper directory.
    pub upper: &'a Dir,
    /// Marks of the project's files.
    pub base: Option<&'a Base>,
    /// True if the repository has a layer of its own.
    pub has_git_layer: bool,
}

/// The host's directory below a directory of the layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lower {
    /// Its files are visible inside.
    Merged,
    /// Its files are hidden.
    Hidden,
    /// There is none.
    None,
}

/// Amounts that a listing may still read.
#[derive(Clone, Copy)]
struct Limits {
    /// Entries of the layer, and entries that it hides.
    entries: usize,
    /// Bytes of all paths.
    path_bytes: usize,
    /// Opened directories: each is opened with all directories around it.
    opened: usize,
}

/// Lists the changes of a layer, sorted by path.
pub fn list(given: &Given<'_>) -> Result<Vec<Change>, Error> {
    list_within(given, LIMITS)
}

fn list_within(given: &Given<'_>, limits: Limits) -> Result<Vec<Change>, Error> {
    let mut reader = Reader { given, changes: BTreeMap::new(), left: limits };
    let mut dirs = vec![(PathBuf::new(), Lower::Merged)];
    while let Some((path, lower)) = dirs.pop() {
        reader.left.opened = reader.left.opened.checked_sub(path.iter().count()).ok_or(Error::TooDeep)?;
        reader.dir(&path, lower, &mut dirs)?;
    }
    Ok(reader.changes.into_values().collect())
}

struct Reader<'a> {
    given: &'a Given<'a>,
    changes: BTreeMap<PathBuf, Change>,
    left: Limits,
}

impl Reader<'_> {
    /// Lists one directory of the layer.
    fn dir(&mut self, path: &Path, lower: Lower, dirs: &mut Vec<(PathBuf, Lower)>) -> Result<(), Error> {
        let upper = match self.given.upper.dir(path) {
            Ok(dir) => dir,
            Err(error) => return self.unreadable(path, &error),
        };
        let names = match upper.list(self.left.entries) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(Error::TooMany { most: LIMITS.entries }),
            Err(error) => return self.unreadable(path, &error),
        };
        self.left.entries -= names.len();
        let host = if lower == Lower::None { None } else { self.given.project.dir(path).ok() };
        for name in &names {
            let whole = path.join(name);
            // The layer of the repository has its changes, so this one can have an empty directory for its mount only.
            if self.given.has_git_layer && whole == Path::new(".git") && is_empty_dir(&upper, name) {
                continue;
            }
            self.count(&whole)?;
            if whole.as_os_str().len() > MAX_PATH_BYTES {
                self.problem(path, "it has names that are too long to read");
                continue;
            }
            let stat = match upper.stat(Path::new(name)) {
                Ok(Some(stat)) => stat,
                // Removed since the listing, by a running program.
                Ok(None) => continue,
                Err(error) => return self.unreadable(&whole, &error),
            };
            let before = match &host {
                Some(host) => entry(host, name).map_err(at("read", &whole))?,
                None => None,
            };
            if Kind::of(&stat) == Kind::Dir {
                let inner = self.child((&upper, name), &whole, before, &stat)?;
                dirs.push((whole, inner));
            } else {
                self.file((&upper, name), &whole, before, &stat);
            }
        }
        if lower == Lower::Hidden
            && let Some(host) = &host
        {
            self.hidden(path, host, &names)?;
        }
        Ok(())
    }

    /// Counts the bytes of a path.
    fn count(&mut self, path: &Path) -> Result<(), Error> {
        self.left.path_bytes = self.left.path_bytes.checked_sub(path.as_os_str().len()).ok_or(Error::TooLong)?;
        Ok(())
    }

    /// Lists a directory of the layer itself; returns the state of the host's directory below it.
    fn child(&mut self, (upper, name): (&Dir, &OsStr), path: &Path, before: Option<Entry>, stat: &Stat) -> Result<Lower, Error> {
        let after = Entry::of(upper, Path::new(name), stat);
        let Some(before) = before else {
            self.add(path, What::Added, None, Some(after));
            return Ok(Lower::None);
        };
        if before.kind != Kind::Dir {
            self.add(path, What::Replaced, Some(before), Some(after));
            return Ok(Lower::None);
        }
        let is_hidden = match upper.dir(Path::new(name)) {
            Ok(dir) => dir.is_opaque(),
            // Reported when its own entries are read.
            Err(_) => false,
        };
        if before.mode != after.mode {
            self.add(path, What::Mode, Some(before), Some(after));
        }
        Ok(if is_hidden { Lower::Hidden } else { Lower::Merged })
    }

    fn file(&mut self, (upper, name): (&Dir, &OsStr), path: &Path, before: Option<Entry>, stat: &Stat) {
        let after = Entry::of(upper, Path::new(name), stat);
        let Some(before) = before else {
            if after.kind != Kind::Whiteout {
                self.add(path, What::Added, None, Some(after));
            }
            return;
        };
        if after.kind == Kind::Whiteout {
            return self.add(path, What::Removed, Some(before), None);
        }
        let what = match (before.kind, after.kind) {
            (Kind::File, Kind::File) if self.is_same((upper, name), path, &before, &after) => What::Mode,
            (Kind::File, Kind::File) => What::Changed,
            (Kind::Link, Kind::Link) if before.target == after.target => return,
            (Kind::Link, Kind::Link) => What::Link,
            _ => What::Replaced,
        };
        if what != What::Mode || before.mode != after.mode {
            self.add(path, what, Some(before), Some(after));
        }
    }

    /// Lists the host's files that an opaque directory of the layer hides.
    fn hidden(&mut self, path: &Path, host: &Dir, names: &[std::ffi::OsString]) -> Result<(), Error> {
        let all = match host.list(self.left.entries) {
            Ok(all) => all,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(Error::TooMany { most: LIMITS.entries }),
            Err(error) => return Err(at("list", path)(error)),
        };
        self.left.entries -= all.len();
        for name in all.iter().filter(|name| names.binary_search(name).is_err()) {
            let whole = path.join(name);
            self.count(&whole)?;
            // The program never saw a file that appeared here after its start.
            let is_new = self.given.base.is_some_and(|base| base.get(&whole).is_none());
            if let Some(before) = entry(host, name).map_err(at("read", &whole))?.filter(|_| !is_new) {
                self.add(&whole, What::Removed, Some(before), None);
            }
        }
        Ok(())
    }

    /// True if both files have the same content.
    fn is_same(&self, (upper, name): (&Dir, &OsStr), path: &Path, before: &Entry, after: &Entry) -> bool {
        if before.size != after.size {
            return false;
        }
        let (Ok((ours, _)), Ok((theirs, _))) = (self.given.project.file(path), upper.file(Path::new(name))) else { return false };
        is_equal(ours, theirs, before.size).unwrap_or(false)
    }

    fn add(&mut self, path: &Path, what: What, before: Option<Entry>, after: Option<Entry>) {
        let problem = after.as_ref().and_then(|after| match after.kind {
            Kind::Socket => Some("it is a socket".to_owned()),
            Kind::Other | Kind::Whiteout => Some("it is a pipe or a device".to_owned()),
            Kind::Link if after.target.is_none() => Some("its target cannot be read".to_owned()),
            Kind::File if after.mode & 0o400 == 0 => Some("its owner may not read it".to_owned()),
            Kind::File | Kind::Dir | Kind::Link => None,
        });
        self.changes.insert(path.to_owned(), Change { path: path.to_owned(), what, before, after, problem });
    }

    /// Records that a part of the layer cannot be read.
    fn unreadable(&mut self, path: &Path, error: &io::Error) -> Result<(), Error> {
        if path.as_os_str().is_empty() {
            return Err(at("read", "the layer")(io::Error::new(error.kind(), error.to_string())));
        }
        self.problem(path, &format!("it cannot be read: {error}"));
        Ok(())
    }

    fn problem(&mut self, path: &Path, problem: &str) {
        let change = self.changes.entry(path.to_owned()).or_insert_with(|| Change {
            path: path.to_owned(),
            what: What::Changed,
            before: None,
            after: None,
            problem: None,
        });
        change.problem = Some(problem.to_owned());
    }
}

/// Returns an entry of a directory of the project.
pub fn entry(dir: &Dir, name: &OsStr) -> io::Result<Option<Entry>> {
    let name = Path::new(name);
    Ok(dir.stat(name)?.map(|stat| Entry::of(dir, name, &stat)))
}

/// Returns an entry of the project by its path.
pub fn entry_at(dir: &Dir, path: &Path) -> io::Result<Option<Entry>> {
    match dir.parent(path) {
        Ok((parent, name)) => entry(&parent, name),
        Err(error) if silo_guard::git::dir_fd::is_absent(&error) || error.raw_os_error() == Some(40) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_empty_dir(dir: &Dir, name: &OsStr) -> bool {
    dir.dir(Path::new(name)).and_then(|inner| inner.list(1)).is_ok_and(|names| names.is_empty())
}

/// Compares two files of the same size. Reads no more than that size.
fn is_equal(ours: File, theirs: File, size: u64) -> io::Result<bool> {
    let (mut ours, mut theirs) = (ours.take(size), theirs.take(size));
    let (mut one, mut other) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = fill(&mut ours, &mut one)?;
        if read != fill(&mut theirs, &mut other)? || one[..read] != other[..read] {
            return Ok(false);
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A project, and a layer with these files.
    fn layer(files: &[&str]) -> (tempfile::TempDir, Dir, Dir) {
        let place = tempfile::tempdir().expect("a directory");
        let (project, upper) = (place.path().join("project"), place.path().join("upper"));
        fs::create_dir(&project).expect("made");
        fs::create_dir(&upper).expect("made");
        for file in files {
            fs::create_dir_all(upper.join(file).parent().expect("in the layer")).expect("made");
            fs::write(upper.join(file), "x").expect("written");
        }
        let open = |path: &Path| Dir::open(path).expect("there");
        let dirs = (open(&project), open(&upper));
        (place, dirs.0, dirs.1)
    }

    #[test]
    fn a_layer_with_many_long_or_deep_paths_is_refused() {
        let (_place, project, upper) = layer(&["a/b/c/file", "a/b/other"]);
        let given = Given { project: &project, upper: &upper, base: None, has_git_layer: false };
        let fit = Limits { entries: 5, path_bytes: 1 + 3 + 5 + 10 + 9, opened: 1 + 2 + 3 };
        assert_eq!(list_within(&given, fit).expect("listed").len(), 5);
        for (limits, expect) in [
            (Limits { entries: 4, ..fit }, "more than"),
            (Limits { path_bytes: fit.path_bytes - 1, ..fit }, "too long together"),
            (Limits { opened: fit.opened - 1, ..fit }, "too many directories inside each other"),
        ] {
            let refused = list_within(&given, limits).expect_err("refused").to_string();
            assert!(refused.contains(expect), "{refused}");
        }
    }

    /// Programs of this machine see the whole layer, so everything in it is listed.
    #[test]
    fn only_an_empty_directory_of_the_repository_is_left_out() {
        let of = |files: &[&str], has_git_layer: bool| {
            let (place, project, upper) = layer(files);
            fs::create_dir_all(place.path().join("upper/.git")).unwrap_or_default();
            let given = Given { project: &project, upper: &upper, base: None, has_git_layer };
            list(&given).expect("listed").len()
        };
        // A linked worktree has a file.
        for (files, has_git_layer, count) in [(&[][..], true, 0), (&[], false, 1), (&[".git"], true, 1), (&[".git/config"], true, 2)] {
            assert_eq!(of(files, has_git_layer), count, "{files:?} {has_git_layer}");
        }
    }
}
