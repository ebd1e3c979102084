//! Files of a project that the host's own programs execute or obey by themselves: hooks, editors' tasks, settings.
//!
//! Three rules, by what a path is:
//!
//! * The repository (`.git`) is a layer of its own inside, see [`crate::git`].
//! * A directory that holds only such files is mounted read-only. The mount stays while the host replaces files in it.
//! * A single file is mounted read-only, too. That mount falls off when the host replaces the file by a rename, so single
//!   files are watched while a sandbox runs and compared with their content at its start. Every difference is reported,
//!   whoever made it.
//!
//! The same files in directories of the project act on whoever enters or opens such a directory by itself. They are watched
//! and compared, and not read-only: programs write them as a matter of course where a project has many packages.
//!
//! A file that does not exist cannot be guarded by a mount; one that comes is reported. The list of files (`obeyed.toml`) is
//! of those that act without being asked for: on `cd`, on opening the directory, on `git status`. A Makefile or a
//! package.json acts when a person runs it, and is not on it.

pub mod git;

mod links;
pub mod list;
mod print;

mod find;

mod nested;

pub mod nearby;

pub mod difference;

pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use list::Act;
use print::Print;

pub use find::{Asked, look};
pub use links::within;

/// Paths that are guarded or compared at most, unless `mount.maxGuarded` says otherwise.
pub const MAX_GUARDED: usize = 8192;

/// Why what a project has could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is more than is looked at.
    #[error("more than {most} files and directories of the project are obeyed by programs of this machine, and each is guarded")]
    TooMany {
        /// The limit.
        most: usize,
    },
    /// The project cannot be read.
    #[error("cannot look through {path}", path = .path.display())]
    Project {
        /// The project.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// A path that is obeyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// What is done about it.
    pub act: Act,
    /// What obeys it.
    pub of: String,
}

/// What a project has that is obeyed, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Paths within the project that are obeyed and there.
    obeyed: BTreeMap<PathBuf, Obeyed>,
    /// They, and all below them.
    prints: BTreeMap<PathBuf, Print>,
}

impl Guards {
    /// Returns the paths that are to be read-only, none below another.
    pub fn read_only(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = Vec::new();
        for (path, _) in self.obeyed.iter().filter(|(_, obeyed)| obeyed.act == Act::Guard) {
            if paths.last().is_none_or(|outer| !path.starts_with(outer)) {
                paths.push(path);
            }
        }
        paths
    }

    /// Says whether a path is obeyed and there.
    pub fn has(&self, path: &str) -> bool {
        self.obeyed.contains_key(Path::new(path))
    }

    /// Returns what obeys a path: that of the nearest one above it.
    fn of(&self, path: &Path) -> Option<&Obeyed> {
        path.ancestors().find_map(|path| self.obeyed.get(path))
    }
}
