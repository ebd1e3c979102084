//! Weighs changes: first those that this machine executes or obeys, each with its reason, then sources, then generated files.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use silo_guard::git::dir_fd::Kind;
use silo_guard::guarded_paths;

use crate::bare_repository::BareRepositories;
use crate::changes::{Change, What};
use crate::error::Error;
use crate::executed::{EXECUTED, LOCKS, MADE};
use crate::ignored::Ignored;
use crate::names::Names;
use crate::packages;
use crate::view::View;

/// Maximum size of a package.json and of a lock file that is parsed.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const MAX_LOCK_BYTES: u64 = 16 << 20;
/// Maximum size of all parsed files: a layer can have many links to one file.
const MAX_PARSED_BYTES: u64 = 128 << 20;
/// Extensions of data: no program executes or loads such a file by itself. Formats of settings, archives and databases are not among them.
const DATA: [&str; 42] = [
    "adoc", "aiff", "avif", "bmp", "csv", "flac", "gcda", "gcno", "gif", "ico", "jpeg", "jpg", "jsonl", "lcov", "log", "m4a", "md", "mov",
    "mp3", "mp4", "ndjson", "ogg", "opus", "otf", "parquet", "pdf", "png", "profdata", "profraw", "prom", "rst", "tif", "tiff", "trace",
    "tsv", "ttf", "txt", "wav", "webm", "webp", "woff", "woff2",
];
/// Number of names in [`MADE`] that are directories of programs even if no `.gitignore` names them.
const ALWAYS_MADE: [&str; 6] = ["node_modules", ".venv", "venv", ".tox", ".nox", "__pypackages__"];

/// Weight of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// This machine executes or obeys the file.
    Obeyed,
    /// A file that people read and write.
    Source,
    /// A file that tools make from others.
    Generated,
}

impl Weight {
    /// Returns the word for a person.
    pub fn word(self) -> &'static str {
        match self {
            Weight::Obeyed => "obeyed",
            Weight::Source => "source",
            Weight::Generated => "generated",
        }
    }
}

/// A change with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// The change.
    pub change: Change,
    /// Its weight.
    pub weight: Weight,
    /// Reason of the weight, if this machine executes or obeys the file.
    pub reason: Option<String>,
    /// Reason why it conflicts with a change here.
    pub conflict: Option<String>,
    /// The topmost generated directory around it.
    pub top: Option<PathBuf>,
    /// True if nothing on this machine executes it by itself.
    pub is_safe: bool,
}

impl Weighed {
    /// True if the change can be applied.
    pub fn is_applicable(&self) -> bool {
        self.conflict.is_none() && self.change.problem.is_none()
    }
}

/// Weighs all changes of a review. `guarded` is true for a path that a program acts on according to the host's own files and links.
pub fn weigh(view: &View, guarded: &dyn Fn(&Path) -> bool) -> Result<Vec<Weighed>, Error> {
    let changes = view.changes()?;
    let weigher = Weigher::new(view, guarded, &changes);
    let mut ignored = Ignored::new(&view.project);
    let mut all: Vec<Weighed> = Vec::with_capacity(changes.len());
    for change in changes {
        let kind = change.after.as_ref().or(change.before.as_ref()).map_or(Kind::File, |entry| entry.kind);
        let top = made(&change.path).or_else(|| ignored.top(&change.path, kind));
        let is_made = is_of_programs(top.as_deref());
        let reason =
            if is_made { None } else { weigher.reason(&change, top.as_deref(), &mut |most| weigher.contents(view, &change, most)) };
        let weight = match (&reason, &top) {
            (Some(_), _) => Weight::Obeyed,
            (None, Some(_)) => Weight::Generated,
            (None, None) => Weight::Source,
        };
        let conflict = view.conflict(&change);
        let is_safe = match weight {
            Weight::Obeyed => false,
            Weight::Source => true,
            Weight::Generated => !is_made && is_data(&change),
        };
        all.push(Weighed { change, weight, reason, conflict, top, is_safe });
    }
    spread(&mut all);
    Ok(all)
}

/// A generated directory with one program is not safe as a whole.
fn spread(all: &mut [Weighed]) {
    let unsafe_tops: BTreeSet<PathBuf> =
        all.iter().filter(|one| one.weight == Weight::Generated && !one.is_safe).filter_map(|one| one.top.clone()).collect();
    // A directory around an obeyed file is as safe as its other files: nothing obeys an empty directory.
    for one in all.iter_mut().filter(|one| one.weight == Weight::Generated) {
        one.is_safe &= one.top.as_ref().is_none_or(|top| !unsafe_tops.contains(top));
    }
}

/// True for a directory of programs that tools make.
pub(crate) fn is_of_programs(top: Option<&Path>) -> bool {
    top.and_then(Path::file_name).is_some_and(|name| MADE.iter().any(|made| name == *made))
}

/// Returns the topmost directory of programs around a path.
pub(crate) fn made(path: &Path) -> Option<PathBuf> {
    let mut around: Vec<&Path> = path.ancestors().collect();
    around.reverse();
    around.into_iter().find(|dir| dir.file_name().is_some_and(|name| ALWAYS_MADE.iter().any(|made| name == *made))).map(Path::to_owned)
}

/// True if no program executes or loads a generated file by itself: a directory, or a file of a known kind of data.
pub(crate) fn is_data(change: &Change) -> bool {
    let Some(after) = &change.after else { return true };
    let name = change.path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    after.kind == Kind::Dir || after.kind == Kind::File && !after.is_executable() && DATA.contains(&name.as_str())
}

/// The contents of a file before and after a change; `None` if there is none, or silo cannot read it.
pub(crate) type Contents = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Finds the reasons of some changes.
pub(crate) struct Weigher<'a> {
    guarded: &'a dyn Fn(&Path) -> bool,
    bare: BareRepositories,
    listed: Names<&'static str>,
    executed: Names<&'static str>,
    locks: Names<&'static str>,
    /// Bytes that may still be parsed.
    left: Cell<u64>,
}

impl<'a> Weigher<'a> {
    /// Prepares to weigh these changes.
    pub(crate) fn new(view: &View, guarded: &'a dyn Fn(&Path) -> bool, changes: &[Change]) -> Weigher<'a> {
        Weigher {
            guarded,
            bare: BareRepositories::of(changes, &view.project),
            listed: Names::new(guarded_paths::lines().map(|line| (line.pattern, line.of))),
            executed: Names::new(EXECUTED.iter().map(|(pattern, reason, _)| (*pattern, *reason))),
            locks: Names::new(LOCKS.iter().map(|(pattern, reason, _)| (*pattern, *reason))),
            left: Cell::new(MAX_PARSED_BYTES),
        }
    }

    /// Returns the reason why this machine executes or obeys the change. `contents` reads files of at most this size.
    pub(crate) fn reason(&self, change: &Change, top: Option<&Path>, contents: &mut dyn FnMut(u64) -> Contents) -> Option<String> {
        let path = &change.path;
        if path.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(b".git")) {
            let is_hook = path.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(b"hooks"));
            return Some(if is_hook { "git hook" } else { "repository of its own: git acts on its configuration" }.to_owned());
        }
        if self.bare.have(path) {
            return Some("bare repository: git acts on its configuration".to_owned());
        }
        if let Some(of) = self.listed.find(path) {
            return Some(listed(path, of));
        }
        if (self.guarded)(path) {
            return Some("a program of this machine acts on it".to_owned());
        }
        // Only a new state can be executed.
        let after = change.after.as_ref()?;
        if after.kind == Kind::Link {
            let target = after.target.as_deref().unwrap_or_else(|| Path::new("/"));
            if points_outside(path, target) {
                return Some("link that leads out".to_owned());
            }
        }
        if after.kind == Kind::Dir {
            return None;
        }
        let name = path.file_name().unwrap_or_default();
        if name.eq_ignore_ascii_case("package.json") && change.what != What::Mode {
            let (before, after) = contents(MAX_MANIFEST_BYTES);
            return match after {
                Some(after) => packages::manifest(before.as_deref(), &after),
                None => Some("package.json that silo cannot read".to_owned()),
            };
        }
        if name.eq_ignore_ascii_case("package-lock.json") && change.what != What::Mode {
            let (before, after) = contents(MAX_LOCK_BYTES);
            return match after {
                Some(after) => packages::lock(before.as_deref(), &after),
                None => Some("lock file that silo cannot read".to_owned()),
            };
        }
        if let Some(reason) = self.executed.find(path).or_else(|| self.locks.find(path)) {
            return Some(reason.to_owned());
        }
        let was_executable = change.before.as_ref().is_some_and(crate::changes::Entry::is_executable);
        match (after.is_executable(), was_executable) {
            (true, _) if top.is_some() => None,
            (true, false) => Some("new executable".to_owned()),
            (true, true) => Some("executable".to_owned()),
            (false, _) => None,
        }
    }

    /// Reads a file before and after the change. A file over the limits counts as unreadable.
    fn contents(&self, view: &View, change: &Change, most: u64) -> Contents {
        let read = |dir: &silo_guard::git::dir_fd::Dir| {
            let bytes = dir.read(&change.path, most.min(self.left.get())).ok().flatten()?;
            self.left.set(self.left.get().saturating_sub(bytes.len() as u64));
            Some(bytes)
        };
        (read(&view.project), read(&view.upper))
    }
}

/// Describes a file of the list of the guard.
fn listed(path: &Path, of: &str) -> String {
    let name = path.file_name().map(|name| name.as_bytes().to_ascii_lowercase()).unwrap_or_default();
    match name.as_slice() {
        b"tasks.json" | b"launch.json" => format!("{of} task"),
        b"silo.toml" | b"silo.lock" => "settings of Silo".to_owned(),
        _ if path.iter().any(|part| part.as_bytes().eq_ignore_ascii_case(b".husky")) => "git hook".to_owned(),
        _ => format!("{of} acts on it"),
    }
}

/// True if a symlink can point outside of the project. Only leading `..` are counted: a `..` after a name can pass through other links.
pub fn points_outside(path: &Path, target: &Path) -> bool {
    let mut up = 0;
    let mut has_name = false;
    for part in target.components() {
        match part {
            Component::RootDir | Component::Prefix(_) => return true,
            Component::ParentDir if has_name => return true,
            Component::ParentDir => up += 1,
            Component::CurDir => {}
            Component::Normal(name) => {
                if name.as_bytes().eq_ignore_ascii_case(b".git") {
                    return true;
                }
                has_name = true;
            }
        }
    }
    up >= path.components().count()
}

/// Counts of generated files by their topmost directory: files, bytes, and whether it is safe.
pub fn groups(all: &[Weighed]) -> BTreeMap<PathBuf, Group> {
    let mut groups: BTreeMap<PathBuf, Group> = BTreeMap::new();
    for one in all.iter().filter(|one| one.weight == Weight::Generated) {
        let group = groups.entry(one.top.clone().unwrap_or_default()).or_insert(Group { files: 0, bytes: 0, is_safe: true });
        if let Some(after) = one.change.after.as_ref().filter(|after| after.kind != Kind::Dir) {
            group.files += 1;
            group.bytes = group.bytes.saturating_add(after.size);
        }
        group.is_safe &= one.is_safe;
    }
    groups
}

/// Generated files of one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Number of files.
    pub files: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// True if nothing on this machine executes one of them by itself.
    pub is_safe: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::Entry;

    /// Files that a program of this machine would load, and that a list of names of programs would miss.
    #[test]
    fn only_known_kinds_of_data_are_safe_among_generated_files() {
        let of = |path: &str, kind: Kind, mode: u32| {
            let after = Entry { kind, mode, size: 3, links: 1, inode: 1, changed: 1, target: None };
            is_data(&Change { path: path.into(), what: What::Added, before: None, after: Some(after), problem: None })
        };
        for path in ["debug.log", "a/b/IMAGE.PNG", "coverage.lcov", "report.csv"] {
            assert!(of(path, Kind::File, 0o644), "{path}");
            assert!(!of(path, Kind::File, 0o755) && !of(path, Kind::Link, 0o777), "{path}");
        }
        for path in [
            "_build/dev/lib/x/ebin/x.beam",
            "libx.so.1",
            "libx.so",
            "x.rb",
            "x.pl",
            "x.lua",
            "x.php",
            "x.ts",
            "x.py",
            "x.js",
            ".pdm-python",
            ".sconsign.dblite",
            "x.db",
            "x.pickle",
            "x.json",
            "x.toml",
            "x.html",
            "x.zip",
            "noextension",
            ".log",
            "x.log.",
        ] {
            assert!(!of(path, Kind::File, 0o644), "{path}");
        }
        assert!(of("dir", Kind::Dir, 0o755));
    }

    #[test]
    fn files_that_tools_execute_or_load_are_listed() {
        let executed = Names::new(EXECUTED.iter().map(|(pattern, reason, _)| (*pattern, *reason)));
        for path in [
            ".envrc.private",
            "sub/.direnv/flake-profile-1.rc",
            ".yarn/cache/x.zip",
            ".latexmkrc",
            "gems.rb",
            "config.nims",
            "buildSrc/src/main/kotlin/x.kt",
            "project/plugins.sbt",
            "project/Build.scala",
            "config/runtime.exs",
            "lib/dune",
            "hatch_build.py",
            "conanfile.py",
            ".storybook/main.ts",
            "analysis_options.yaml",
            "jsconfig.json",
            ".appveyor.yml",
            ".cirrus.yml",
            ".build.yml",
            "buildspec.yml",
            "azure-pipelines-nightly.yaml",
            ".github/dependabot.yaml",
            "Taskfile.dist.yml",
            "build.gradle.kts",
            "recipes/tool.toml",
            "conftest.py",
            "compose.override.yaml",
        ] {
            assert!(executed.find(Path::new(path)).is_some(), "{path}");
        }
        for path in ["src/main.rs", "README.md", "recipes/soup.md", "config/app.txt", "projects/x.scala"] {
            assert!(executed.find(Path::new(path)).is_none(), "{path}");
        }
    }

    #[test]
    fn every_name_has_a_reason_and_a_source_and_is_there_once() {
        let mut seen = BTreeSet::new();
        for (pattern, reason, source) in EXECUTED.iter().chain(LOCKS) {
            assert!(!reason.is_empty() && source.len() > 5 && source.is_ascii(), "{pattern}");
            assert!(seen.insert(*pattern), "{pattern} is there twice");
            assert!(!pattern.is_empty() && !pattern.starts_with('/') && !pattern.ends_with('/') && *pattern != "*", "{pattern}");
        }
    }

    #[test]
    fn links_that_can_point_outside_are_found() {
        for (path, target, expect) in [
            ("a", "b", false),
            ("a", "../b", true),
            ("d/a", "../b", false),
            ("d/a", "../../b", true),
            ("d/e/a", "../x/../../y", true),
            ("a", "/etc", true),
            ("a", "x/..", true),
            ("a", "./b/c", false),
            ("a", ".git/hooks", true),
            ("a", ".", false),
        ] {
            assert_eq!(points_outside(Path::new(path), Path::new(target)), expect, "{path} -> {target}");
        }
    }
}
