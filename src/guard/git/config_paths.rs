//! Files of a project that git's configuration and index name: hooks, includes, filters and drivers, submodules.
//!
//! The configurations of the user and the machine count too, because they may name files by paths in a project. Conditions of includes are
//! treated as true.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use silo_store::read_limited;

use super::config::{self, FileRelation, MAX_CONFIG_BYTES, Value};
use super::dir_fd::{Dir, Kind};
use super::repository::{self, Repository};

/// Maximum number of nested includes, as in git.
const MAX_INCLUDES: usize = 64;
/// Maximum depth of nested submodules.
const MAX_DEPTH: usize = 8;
/// Git's hooks, for a hooks path that is the project directory itself.
const HOOKS: [&str; 24] = [
    "applypatch-msg",
    "pre-applypatch",
    "post-applypatch",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "commit-msg",
    "post-commit",
    "pre-rebase",
    "post-checkout",
    "post-merge",
    "pre-push",
    "pre-receive",
    "update",
    "proc-receive",
    "post-receive",
    "post-update",
    "reference-transaction",
    "push-to-checkout",
    "pre-auto-gc",
    "post-rewrite",
    "sendemail-validate",
    "fsmonitor-watchman",
    "post-index-change",
];

/// Reason why git's configuration cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration cannot be read.
    #[error("{path} cannot be parsed as git configuration, so silo cannot tell which files of the project git runs", path = .path.display())]
    Config {
        /// File.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Too many submodules.
    #[error("the project has more than {most} submodules")]
    TooMany {
        /// Limit.
        most: usize,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

/// Inputs of the scan.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Canonical path of the project.
    pub project: &'a Path,
    /// Home directory of the user.
    pub home: &'a Path,
    /// Maximum number of submodules.
    pub most: usize,
}

/// Result of the scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Paths in the project that git acts on, each with the value that names it. A path may not exist.
    pub obeyed: Vec<(PathBuf, String)>,
    /// Existing working trees of submodules.
    pub submodules: Vec<PathBuf>,
}

/// Finds the files that git's configuration and index name.
pub fn named(place: Place<'_>) -> Result<Named, Error> {
    let Some(repository) = Repository::find(place.project)? else { return Ok(Named::default()) };
    let mut search = Search { place, found: BTreeSet::new(), trees: Vec::new(), submodules: 0 };
    for path in [PathBuf::from("/etc/gitconfig"), place.home.join(".config/git/config"), place.home.join(".gitconfig")] {
        // An invalid file is ignored, because no sandbox can write it.
        let _ = search.config(&path, Path::new(""));
    }
    search.repository(&repository, Path::new(""), 0)?;
    Ok(Named { obeyed: search.found.into_iter().collect(), submodules: search.trees })
}

struct Search<'a> {
    place: Place<'a>,
    found: BTreeSet<(PathBuf, String)>,
    trees: Vec<PathBuf>,
    submodules: usize,
}

impl Search<'_> {
    fn repository(&mut self, repository: &Repository, top: &Path, depth: usize) -> Result<(), Error> {
        for path in repository.configs() {
            self.config(&path, top)?;
        }
        let hooks = repository.common().join("hooks");
        self.links(&hooks, top);
        for path in repository.gitlinks()? {
            self.submodules += 1;
            if self.submodules > self.place.most || depth == MAX_DEPTH {
                return Err(Error::TooMany { most: self.place.most });
            }
            self.submodule(&top.join(OsStr::from_bytes(&path)), depth)?;
        }
        Ok(())
    }

    /// Scans a submodule: its `.git` names a repository within the project's own, or is that repository.
    fn submodule(&mut self, path: &Path, depth: usize) -> Result<(), Error> {
        let why = || format!("git, which enters the submodule {}", path.display());
        let Ok(dir) = Dir::open(self.place.project).and_then(|dir| dir.dir(path)) else {
            // Not a directory: report a `.git` that appears there.
            self.found.insert((path.join(".git"), why()));
            return Ok(());
        };
        match dir.stat(Path::new(".git")).ok().flatten().map(|stat| Kind::of(&stat)) {
            Some(kind) => {
                if kind == Kind::Dir {
                    let inner = ["hooks", "config", "config.worktree", "commondir", "info"].map(|name| path.join(".git").join(name));
                    self.found.extend(inner.map(|path| (path, why())));
                } else {
                    self.found.insert((path.join(".git"), why()));
                }
                self.trees.push(path.to_owned());
                if let Some(inner) = Repository::find(&self.place.project.join(path))? {
                    self.repository(&inner, path, depth + 1)?;
                }
            }
            // A submodule that is not checked out: git would enter a repository that appears in its directory.
            None if dir.list(1).is_ok_and(|names| names.is_empty()) => drop(self.found.insert((path.to_owned(), why()))),
            None => drop(self.found.insert((path.join(".git"), why()))),
        }
        Ok(())
    }

    /// Reads a configuration and its includes.
    fn config(&mut self, first: &Path, top: &Path) -> Result<(), Error> {
        let mut todo = vec![first.to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(path) = todo.pop() {
            if !seen.insert(path.clone()) || seen.len() > MAX_INCLUDES {
                continue;
            }
            let failed = |source| Error::Config { path: path.clone(), source };
            let text = match read_limited::read(&path, MAX_CONFIG_BYTES) {
                Ok(text) => text,
                Err(error) if super::dir_fd::is_absent(&error) => continue,
                // An unreadable include has no effect.
                Err(_) if path != first => continue,
                Err(error) => return Err(failed(error)),
            };
            let values = match config::parse(&text) {
                Ok(values) => values,
                Err(_) if path != first => continue,
                Err(error) => return Err(failed(std::io::Error::other(error))),
            };
            for value in &values {
                match value.names() {
                    Some(FileRelation::Include) => todo.extend(self.include(value, &path)),
                    Some(FileRelation::Programs) => self.programs(value, top),
                    Some(FileRelation::File) => {
                        let text = String::from_utf8_lossy(&value.value).into_owned();
                        if let Some(path) = self.within(top, &text) {
                            self.add(path, value);
                        }
                    }
                    Some(FileRelation::Command) => self.command(value, top),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, value: &Value) {
        self.found.insert((path, format!("git's {}", value.key())));
    }

    fn include(&mut self, value: &Value, from: &Path) -> Option<PathBuf> {
        let text = String::from_utf8_lossy(&value.value).into_owned();
        let dir = from.parent().unwrap_or_else(|| Path::new("/"));
        let path = normal(&dir.join(self.expanded(&text)));
        if let Ok(inner) = path.strip_prefix(self.place.project) {
            self.add(inner.to_owned(), value);
        }
        Some(path)
    }

    /// A directory of programs. The project directory itself cannot be guarded as a whole, so guard git's hooks in it.
    fn programs(&mut self, value: &Value, top: &Path) {
        let text = String::from_utf8_lossy(&value.value).into_owned();
        let whole = normal(&self.place.project.join(top).join(self.expanded(&text)));
        let Ok(inner) = whole.strip_prefix(self.place.project).map(Path::to_owned) else { return };
        if inner.as_os_str().is_empty() || top.starts_with(&inner) {
            HOOKS.iter().for_each(|name| self.add(inner.join(name), value));
        } else {
            self.add(inner, value);
        }
    }

    /// Finds project files in a command: each word with a slash, and each existing file other than the program.
    fn command(&mut self, value: &Value, top: &Path) {
        let text = String::from_utf8_lossy(&value.value).into_owned();
        for (number, word) in config::words(&text).into_iter().enumerate() {
            // Of `$(git rev-parse --show-toplevel)/tools/x`, only the last part is left.
            let below_top = self.within(top, word.trim_start_matches('/'));
            for path in [self.within(top, word), below_top].into_iter().flatten() {
                let stat = Dir::open(self.place.project).and_then(|dir| dir.stat(&path)).ok().flatten();
                let is_file = stat.is_some_and(|stat| Kind::of(&stat) != Kind::Dir);
                let is_path = word.contains('/') && stat.is_none() && value.section != "remote";
                if is_path || is_file && (number > 0 || word.contains('/')) {
                    self.add(path, value);
                }
            }
        }
    }

    /// Finds hooks that are symlinks to project files.
    fn links(&mut self, hooks: &Path, top: &Path) {
        let Ok(dir) = Dir::open(hooks) else { return };
        for name in dir.list(HOOKS.len() * 8).unwrap_or_default() {
            let Ok(target) = dir.link(Path::new(&name)) else { continue };
            let whole = normal(&hooks.join(target));
            if let Ok(inner) = whole.strip_prefix(self.place.project)
                && !inner.starts_with(top.join(".git"))
            {
                self.found.insert((inner.to_owned(), "git, by a symlink in its hooks".to_owned()));
            }
        }
    }

    fn within(&self, top: &Path, text: &str) -> Option<PathBuf> {
        let whole = normal(&self.place.project.join(top).join(self.expanded(text)));
        let inner = whole.strip_prefix(self.place.project).ok()?;
        let is_repository = inner.components().any(|part| part == Component::Normal(OsStr::new(".git")));
        (!inner.as_os_str().is_empty() && !is_repository).then(|| inner.to_owned())
    }

    fn expanded(&self, text: &str) -> PathBuf {
        text.strip_prefix("~/").map_or_else(|| PathBuf::from(text), |rest| self.place.home.join(rest))
    }
}

/// Removes `.` and `..` from a path without reading symlinks.
fn normal(path: &Path) -> PathBuf {
    let mut whole = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => whole.push(name),
            Component::ParentDir => drop(whole.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    whole
}
