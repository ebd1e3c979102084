//! Finds git repositories without the name `.git` (bare repositories) that changes make: git acts on the configuration of one as soon as it
//! starts in that directory, and a prompt or an editor starts it without a question.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use silo_guard::git::dir_fd::Dir;

use crate::changes::Change;

/// Entries by which git takes a directory for a repository, in lower case: `HEAD` and either the next or the two last.
const PARTS: [&[u8]; 4] = [b"head", b"commondir", b"objects", b"refs"];

/// The directories that are bare repositories after the changes.
pub struct BareRepositories(BTreeSet<PathBuf>);

impl BareRepositories {
    /// Finds them. An entry that the changes remove still counts: a part of the changes may be applied.
    pub fn of(changes: &[Change], project: &Dir) -> BareRepositories {
        let mut dirs: BTreeMap<PathBuf, [bool; PARTS.len()]> = BTreeMap::new();
        for change in changes.iter().filter(|change| change.after.is_some()) {
            let mut inner = change.path.as_path();
            while let (Some(dir), Some(name)) = (inner.parent(), inner.file_name()) {
                if let Some(part) = part(name) {
                    dirs.entry(dir.to_owned()).or_default()[part] = true;
                }
                inner = dir;
            }
        }
        let is_repository = |(dir, mut has): (PathBuf, [bool; PARTS.len()])| {
            for (has, name) in has.iter_mut().zip(["HEAD", "commondir", "objects", "refs"]) {
                *has |= matches!(project.stat(&dir.join(name)), Ok(Some(_)));
            }
            let [head, common, objects, refs] = has;
            (head && (common || objects && refs)).then_some(dir)
        };
        BareRepositories(dirs.into_iter().filter_map(is_repository).collect())
    }

    /// True if a path is in one of them.
    pub fn have(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|dir| self.0.contains(dir))
    }
}

/// File systems may ignore case.
fn part(name: &OsStr) -> Option<usize> {
    PARTS.iter().position(|part| name.as_bytes().eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use silo_guard::git::dir_fd::Kind;

    use super::*;
    use crate::changes::{Entry, What};

    fn added(path: &str) -> Change {
        let after = Entry { kind: Kind::File, mode: 0o644, size: 0, links: 1, inode: 1, changed: 0, target: None };
        Change { path: path.into(), what: What::Added, before: None, after: Some(after), problem: None }
    }

    #[test]
    fn directories_that_git_takes_for_repositories_are_found() {
        let place = tempfile::tempdir().expect("a directory");
        for dir in ["half/objects", "half/refs"] {
            fs::create_dir_all(place.path().join(dir)).expect("our own");
        }
        let project = Dir::open(place.path()).expect("there");
        let of = |paths: &[&str]| {
            let changes: Vec<Change> = paths.iter().copied().map(added).collect();
            let found = BareRepositories::of(&changes, &project);
            changes.iter().filter(|change| found.have(&change.path)).count()
        };
        for (paths, count) in [
            (&["a/HEAD", "a/config", "a/objects/.keep", "a/refs/.keep", "b"][..], 4),
            (&["a/b/head", "a/b/Objects", "a/b/refs", "a/c"], 3),
            (&["a/HEAD", "a/commondir"], 2),
            (&["HEAD", "objects", "refs/heads/main", "deep/er"], 4),
            // The project has the rest.
            (&["half/HEAD"], 1),
            (&["half/config"], 0),
            (&["a/HEAD", "a/config", "a/objects/.keep"], 0),
            (&["a/HEAD", "b/objects/x", "b/refs/x"], 0),
            (&["src/refs/a", "src/objects/b"], 0),
        ] {
            assert_eq!(of(paths), count, "{paths:?}");
        }
    }
}
