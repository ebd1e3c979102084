//! Ignored files: those that the project's own `.gitignore` files name. A `.gitignore` of the layer does not count, because it could hide
//! a program's own changes.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix_ignore::Search;
use gix_ignore::glob::pattern::Case;
use gix_ignore::search::Ignore;

use silo_guard::git::dir_fd::{Dir, Kind};

/// Maximum size of a `.gitignore`.
const MAX_BYTES: u64 = 1 << 20;

/// The ignored files of a project. Ask for paths in sorted order.
pub struct Ignored<'a> {
    project: &'a Dir,
    search: Search,
    dirs: HashMap<PathBuf, bool>,
}

impl<'a> Ignored<'a> {
    /// Reads the rules of the top directory.
    pub fn new(project: &'a Dir) -> Ignored<'a> {
        let mut ignored = Ignored { project, search: Search::default(), dirs: HashMap::new() };
        ignored.read(Path::new(".git/info/exclude"), Path::new(""));
        ignored.read(Path::new(".gitignore"), Path::new(""));
        ignored.dirs.insert(PathBuf::new(), false);
        ignored
    }

    /// Returns the topmost ignored directory around a path, or the path itself if it is ignored.
    pub fn top(&mut self, path: &Path, kind: Kind) -> Option<PathBuf> {
        let mut around: Vec<&Path> = path.ancestors().skip(1).collect();
        around.reverse();
        for dir in around {
            if self.is_dir_ignored(dir) {
                return Some(dir.to_owned());
            }
        }
        self.fits(path, kind).then(|| path.to_owned())
    }

    /// True if a directory is ignored; reads its rules if it is not.
    fn is_dir_ignored(&mut self, dir: &Path) -> bool {
        if let Some(known) = self.dirs.get(dir) {
            return *known;
        }
        let is_ignored = self.fits(dir, Kind::Dir);
        if !is_ignored {
            self.read(&dir.join(".gitignore"), dir);
        }
        self.dirs.insert(dir.to_owned(), is_ignored);
        is_ignored
    }

    fn fits(&self, path: &Path, kind: Kind) -> bool {
        let path = path.as_os_str().as_bytes();
        let found = self.search.pattern_matching_relative_path(path.into(), Some(kind == Kind::Dir), Case::Sensitive);
        found.is_some_and(|found| !found.pattern.is_negative())
    }

    fn read(&mut self, file: &Path, dir: &Path) {
        let Ok(Some(bytes)) = self.project.read(file, MAX_BYTES) else { return };
        // The search wants absolute paths, and never reads them.
        let root = Path::new("/").join(dir);
        let _ = self.search.add_patterns_buffer(&bytes, root.join(".gitignore"), Some(Path::new("/")), Ignore::default());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn rules_of_the_project_count_as_in_git() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        for dir in ["a/b", "node_modules", ".git/info"] {
            fs::create_dir_all(root.join(dir)).expect("made");
        }
        fs::write(root.join(".gitignore"), "node_modules/\n*.log\n!keep.log\n/top\n").expect("written");
        fs::write(root.join("a/.gitignore"), "inner\n/here\n").expect("written");
        fs::write(root.join(".git/info/exclude"), "private\n").expect("written");
        fs::write(root.join("node_modules/.gitignore"), "!*\n").expect("written");
        let project = Dir::open(root).expect("there");
        let mut ignored = Ignored::new(&project);
        for (path, expect) in [
            ("a/b/here", None),
            ("a/b/inner/x", Some("a/b/inner")),
            ("a/here", Some("a/here")),
            ("a/top", None),
            ("b/inner", None),
            ("keep.log", None),
            ("node_modules/x/y.js", Some("node_modules")),
            ("private", Some("private")),
            ("src/x.log", Some("src/x.log")),
            ("top", Some("top")),
        ] {
            assert_eq!(ignored.top(Path::new(path), Kind::File), expect.map(PathBuf::from), "{path}");
        }
        assert_eq!(ignored.top(Path::new("node_modules"), Kind::Dir), Some("node_modules".into()));
    }
}
