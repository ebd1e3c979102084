//! Files of a project that host programs execute or load automatically: hooks, editor tasks, settings.
//!
//! Three rules, by the kind of path:
//!
//! * The repository (`.git`) has a private overlay inside, see [`crate::git`].
//! * A directory that contains only such files is mounted read-only. The mount survives when the host replaces files in it.
//! * A single file is mounted read-only too. That mount disappears when the host replaces the file by a rename. So single
//!   files are watched while a sandbox runs and compared with their content at its start. Every difference is reported,
//!   regardless of its author.
//!
//! In a subdirectory of the project, the same files act when a user enters or opens it. They are watched and compared, but not read-only,
//! because programs regularly write them in a project with many packages.
//!
//! A mount cannot guard a missing file; a new one is reported. The list (`obeyed.toml`) contains only files that act automatically: on
//! `cd`, on opening the directory, on `git status`. A Makefile or a package.json acts only when a user runs it, and is not listed.

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

/// Default of `mount.maxGuarded`: maximum number of guarded or compared paths.
pub const MAX_GUARDED: usize = 8192;

/// Error of a scan.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The project has too many such files.
    #[error("programs of this machine act on more than {most} files and directories of the project, and each needs a guard")]
    TooMany {
        /// Limit.
        most: usize,
    },
    /// The project cannot be read.
    #[error("cannot scan {path}", path = .path.display())]
    Project {
        /// Project directory.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// A path that host programs act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// Action for the path.
    pub act: Act,
    /// Program that acts on it.
    pub of: String,
}

/// Result of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guards {
    /// Existing paths in the project that host programs act on.
    obeyed: BTreeMap<PathBuf, Obeyed>,
    /// Fingerprints of these paths and everything below them.
    prints: BTreeMap<PathBuf, Print>,
}

impl Guards {
    /// Returns the paths to mount read-only; none is below another.
    pub fn read_only(&self) -> Vec<&Path> {
        let mut paths: Vec<&Path> = Vec::new();
        for (path, _) in self.obeyed.iter().filter(|(_, obeyed)| obeyed.act == Act::Guard) {
            if paths.last().is_none_or(|outer| !path.starts_with(outer)) {
                paths.push(path);
            }
        }
        paths
    }

    /// True if a path exists and a host program acts on it.
    pub fn has(&self, path: &str) -> bool {
        self.obeyed.contains_key(Path::new(path))
    }

    /// Returns the entry of a path, or of its nearest parent.
    fn of(&self, path: &Path) -> Option<&Obeyed> {
        path.ancestors().find_map(|path| self.obeyed.get(path))
    }
}
