//! The base of a review: a mark of each file of the project, taken when the review first sees the file.
//!
//! A file that the layer does not have is marked again at each run, because the next program inside sees its current state. A file that
//! the layer has keeps its first mark.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use silo_guard::git::dir_fd::{Dir, Kind, is_absent};
use silo_store::read_limited;

use crate::mark::Mark;

/// Maximum number of marked files. Later files count as unknown.
const MAX_FILES: usize = 2_000_000;
/// Maximum size of a record.
const MAX_BYTES: u64 = 1 << 30;
/// First line of a record.
const HEAD: &[u8] = b"silo-base 1";

/// Marks of the files of a project, by relative path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    marks: BTreeMap<PathBuf, Mark>,
}

/// Moments of a review.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Start of the review.
    pub review: i128,
    /// Start of the run.
    pub run: i128,
}

impl Base {
    /// Returns the mark of a path; `None` if the path did not exist.
    pub fn get(&self, path: &Path) -> Option<&Mark> {
        self.marks.get(path)
    }

    /// Replaces the mark of a path.
    pub fn set(&mut self, path: &Path, mark: Option<Mark>) {
        match mark {
            Some(mark) => {
                self.marks.insert(path.to_owned(), mark);
            }
            None => self.forget(path),
        }
    }

    /// Removes the marks of a path and of everything below it.
    pub fn forget(&mut self, path: &Path) {
        let gone: Vec<PathBuf> =
            self.marks.range(path.to_owned()..).map(|(found, _)| found).take_while(|found| found.starts_with(path)).cloned().collect();
        for path in gone {
            self.marks.remove(&path);
        }
    }

    /// Marks the files of a project. `before` is the record of earlier runs, and `upper` the layer.
    pub fn mark(project: &Dir, upper: &Dir, before: Option<&Base>, moments: Moments) -> Base {
        let mut base = Base::default();
        // Each directory with the state of the layer there.
        let mut dirs = vec![(PathBuf::new(), Layer::Through)];
        while let Some((path, layer)) = dirs.pop() {
            let Ok(dir) = project.dir(&path) else { continue };
            let above = if layer == Layer::Through { upper.dir(&path).ok() } else { None };
            for name in dir.list(MAX_FILES - base.marks.len()).unwrap_or_default() {
                let whole = path.join(&name);
                if whole == Path::new(".git") {
                    continue;
                }
                let Ok(Some(stat)) = dir.stat(Path::new(&name)) else { continue };
                let inner = layer.below(above.as_ref(), &name);
                let mark = match (inner, before) {
                    (Layer::Through, _) => Some(Mark::of(&stat, moments.run)),
                    (Layer::Over, None) => Some(Mark::of(&stat, moments.review)),
                    (Layer::Over, Some(before)) => before.get(&whole).copied(),
                };
                if let Some(mark) = mark {
                    base.marks.insert(whole.clone(), mark);
                }
                if Kind::of(&stat) == Kind::Dir {
                    dirs.push((whole, inner));
                }
            }
        }
        // Marks of files that the layer changes and that are gone here.
        for (path, mark) in before.iter().flat_map(|before| &before.marks) {
            if !base.marks.contains_key(path) && is_over(upper, path) {
                base.marks.insert(path.clone(), *mark);
            }
        }
        base
    }

    /// Reads a record; `None` if there is none.
    pub fn read(path: &Path) -> io::Result<Option<Base>> {
        let bytes = match read_limited::read(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Base::parse(&bytes).map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not a record of a base"))
    }

    fn parse(bytes: &[u8]) -> Option<Base> {
        let mut base = Base::default();
        let mut records = bytes.split(|byte| *byte == 0);
        if records.next()? != HEAD {
            return None;
        }
        for record in records.filter(|record| !record.is_empty()) {
            let tab = record.iter().position(|byte| *byte == b'\t')?;
            let mark = Mark::parse(std::str::from_utf8(&record[..tab]).ok()?)?;
            base.marks.insert(OsStr::from_bytes(&record[tab + 1..]).into(), mark);
        }
        Some(base)
    }

    /// Writes the record by one rename.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut bytes = HEAD.to_vec();
        for (path, mark) in &self.marks {
            bytes.push(0);
            bytes.extend(mark.text().bytes());
            bytes.push(b'\t');
            bytes.extend(path.clone().into_os_string().into_vec());
        }
        let new = path.with_extension("new");
        silo_store::private::write(&new, &bytes)?;
        std::fs::rename(new, path)
    }
}

/// State of the layer at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// The program inside sees the host's file.
    Through,
    /// The layer has its own file, or hides the host's.
    Over,
}

impl Layer {
    fn below(self, above: Option<&Dir>, name: &OsStr) -> Layer {
        let Some(above) = above.filter(|_| self == Layer::Through) else { return self };
        match above.stat(Path::new(name)) {
            Ok(None) => Layer::Through,
            Ok(Some(stat)) if Kind::of(&stat) == Kind::Dir => match above.dir(Path::new(name)) {
                Ok(dir) if !dir.is_opaque() => Layer::Through,
                _ => Layer::Over,
            },
            _ => Layer::Over,
        }
    }
}

/// True if the layer has its own file at a path, or hides the host's.
fn is_over(upper: &Dir, path: &Path) -> bool {
    let Ok(mut at) = upper.again() else { return true };
    let names: Vec<_> = path.components().collect();
    for (index, name) in names.iter().enumerate() {
        let name = Path::new(name.as_os_str());
        match at.stat(name) {
            Ok(None) => return false,
            Ok(Some(stat)) if Kind::of(&stat) == Kind::Dir && index + 1 < names.len() => match at.dir(name) {
                Ok(dir) if !dir.is_opaque() => at = dir,
                _ => return true,
            },
            _ => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const EARLY: Moments = Moments { review: i128::MAX, run: i128::MAX };

    #[test]
    fn a_record_keeps_marks_of_any_path() {
        let place = tempfile::tempdir().expect("a directory");
        let (project, upper) = (place.path().join("p"), place.path().join("u"));
        fs::create_dir_all(project.join("a/b")).expect("made");
        fs::create_dir(&upper).expect("made");
        fs::write(project.join(OsStr::from_bytes(b"a/\t\n\xff")), "x").expect("written");
        let (project, upper) = (Dir::open(&project).expect("there"), Dir::open(&upper).expect("there"));
        let base = Base::mark(&project, &upper, None, EARLY);
        assert_eq!(base.marks.len(), 3);
        let record = place.path().join("base");
        base.write(&record).expect("written");
        assert_eq!(Base::read(&record).expect("read"), Some(base));
        fs::write(&record, "silo-base 2").expect("written");
        assert!(Base::read(&record).is_err());
        assert_eq!(Base::read(&place.path().join("none")).expect("none"), None);
    }

    #[test]
    fn files_of_the_layer_keep_their_first_mark_and_others_are_marked_again() {
        let place = tempfile::tempdir().expect("a directory");
        let (project, upper) = (place.path().join("p"), place.path().join("u"));
        for dir in [&project, &upper] {
            fs::create_dir(dir).expect("made");
        }
        for name in ["seen", "changed", "gone"] {
            fs::write(project.join(name), "x").expect("written");
        }
        let (project_dir, upper_dir) = (Dir::open(&project).expect("there"), Dir::open(&upper).expect("there"));
        let first = Base::mark(&project_dir, &upper_dir, None, EARLY);
        fs::write(upper.join("changed"), "inside").expect("written");
        fs::write(upper.join("gone"), "inside").expect("written");
        fs::write(upper.join("new"), "inside").expect("written");
        for name in ["seen", "changed", "new"] {
            fs::write(project.join(name), "longer").expect("written");
        }
        fs::remove_file(project.join("gone")).expect("there");
        let second = Base::mark(&project_dir, &upper_dir, Some(&first), EARLY);
        for (name, is_first) in [("seen", false), ("changed", true), ("gone", true), ("new", true)] {
            assert_eq!(second.get(Path::new(name)) == first.get(Path::new(name)), is_first, "{name}");
        }
        assert_eq!(second.get(Path::new("new")), None);
        // Without a record, a file that changed after the start is unknown.
        let none = Base::mark(&project_dir, &upper_dir, None, Moments { review: 0, run: 0 });
        assert_eq!(none.get(Path::new("changed")), Some(&Mark::Unknown));
    }
}
