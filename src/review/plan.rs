//! The plan of a decision: the operations on the project's files, and their record.
//!
//! ```text
//! done/<number>/plan.json   the operations and their phase
//! done/<number>/old/<n>     the replaced or removed file of operation n
//! <dir>/.silo-apply-<id>-<n>   a file of operation n beside its target, until it has its name
//! ```

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use silo_guard::git::dir_fd::{Dir, mode_of};
use silo_store::digest::Digest;
use silo_store::{private, read_limited};

use crate::record_text::{digest, escaped_path, escaped_paths};

/// Version of `plan.json`.
const VERSION: u32 = 2;
/// Maximum size of `plan.json`: a million operations with paths of usual length.
const MAX_BYTES: u64 = 256 << 20;
/// Maximum size of everything that an operation gets after its staging: an identity and a digest.
const OPERATION_BYTES: u64 = 400;

/// Seconds for which a decision can be undone.
const KEPT_SECONDS: u64 = 24 * 60 * 60;

/// Phase of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// New files are being written beside their targets. The project is unchanged.
    Staging,
    /// All new files are complete. The next silo finishes the decision.
    Ready,
    /// All files are in place. The next silo moves the replaced files to the record.
    Keeping,
    /// A file changed here in between. The next silo finishes the rollback.
    Undoing,
    /// Done.
    Finished,
    /// Done, and undone by a later decision.
    Undone,
}

/// A decision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    version: u32,
    /// Path of the project.
    #[serde(with = "escaped_path")]
    project: PathBuf,
    /// Part of the names of staged files.
    pub id: String,
    /// Phase.
    pub phase: Phase,
    /// Seconds since 1970 of the decision; of its end, once it is done.
    pub at: u64,
    /// Number of the decision that this one undoes.
    pub undoes: Option<u64>,
    /// Operations, in the order of paths.
    pub operations: Vec<Operation>,
}

/// One operation on a file or directory of the project.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Path in the project.
    #[serde(with = "escaped_path")]
    pub path: PathBuf,
    /// Action.
    pub action: Action,
    /// Identity of the replaced, removed or changed file; `None` for a new one.
    pub before: Option<Id>,
    /// Contents of the replaced or removed directory, see [`contents`](crate::contents).
    #[serde(with = "digest")]
    pub contents_before: Option<Digest>,
    /// Identity of the new file; `None` until it is staged, and for a removal.
    pub after: Option<Id>,
    /// Contents of the new directory.
    #[serde(with = "digest")]
    pub contents_after: Option<Digest>,
    /// Paths of the layer that the operation brings, for directories.
    #[serde(with = "escaped_paths")]
    pub parts: Vec<PathBuf>,
}

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Put a file or directory in place.
    Put,
    /// Remove a file or directory.
    Remove,
    /// Change permissions.
    Mode(u32),
}

/// Identity of a file that survives a rename: the time of the last change of metadata does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Id {
    kind: u32,
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
    /// Permission bits.
    pub mode: u32,
}

impl Id {
    /// Returns the identity of a file.
    #[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
    pub fn of(stat: &Stat) -> Id {
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        let mode = mode_of(stat);
        Id {
            kind: mode & !0o7777,
            inode: stat.st_ino as u64,
            size: if is_dir { 0 } else { stat.st_size as u64 },
            seconds: if is_dir { 0 } else { stat.st_mtime as i64 },
            nanoseconds: if is_dir { 0 } else { stat.st_mtime_nsec as i64 },
            mode: mode & 0o7777,
        }
    }

    /// Returns the identity with other permissions.
    pub fn with_mode(self, mode: u32) -> Id {
        Id { mode, ..self }
    }

    /// True if both are the same file, whatever happened to it.
    pub fn is_same_file(&self, other: &Id) -> bool {
        self.inode == other.inode && self.kind == other.kind
    }
}

impl Operation {
    /// An operation that is not staged yet.
    pub fn new(path: &Path, action: Action, before: Option<Id>, parts: Vec<PathBuf>) -> Operation {
        Operation { path: path.to_owned(), action, before, contents_before: None, after: None, contents_after: None, parts }
    }

    /// Adds the contents of the directory that the operation replaces or removes.
    pub fn over(self, contents_before: Option<Digest>) -> Operation {
        Operation { contents_before, ..self }
    }
}

impl Plan {
    /// A decision that has not begun.
    pub fn new(project: &Path, id: String, at: u64, undoes: Option<u64>, operations: Vec<Operation>) -> Plan {
        Plan { version: VERSION, project: project.to_owned(), id, phase: Phase::Staging, at, undoes, operations }
    }

    /// True if the decision is done, and too old to be undone.
    pub fn is_expired(&self, now: u64) -> bool {
        matches!(self.phase, Phase::Finished | Phase::Undone) && now.saturating_sub(self.at) > KEPT_SECONDS
    }

    /// Returns the name of the staged file of an operation, beside its target.
    pub fn staged(&self, index: usize) -> OsString {
        format!(".silo-apply-{}-{index}", self.id).into()
    }

    /// Opens the directory of an operation's target, and returns the target's name.
    pub fn target(&self, project: &Dir, index: usize) -> io::Result<(Dir, OsString)> {
        let (dir, name) = project.parent(&self.operations[index].path)?;
        Ok((dir, name.to_owned()))
    }

    /// Returns every path that the plan changes.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.operations.iter().flat_map(|operation| operation.parts.iter().chain([&operation.path])).cloned().collect()
    }

    /// Reads the plan of a decision; `None` if it has none.
    pub fn read(dir: &Path) -> io::Result<Option<Plan>> {
        let bytes = match read_limited::read(&dir.join("plan.json"), MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if silo_guard::git::dir_fd::is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let plan: Plan = serde_json::from_slice(&bytes)?;
        match plan.version {
            VERSION => Ok(Some(plan)),
            version => Err(io::Error::new(io::ErrorKind::InvalidData, format!("its version is {version}"))),
        }
    }

    /// Writes the plan by one rename. Refuses one that is too large to be read again, also after its staging.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let (path, new) = (dir.join("plan.json"), dir.join("plan.new"));
        let text = serde_json::to_vec(self)?;
        let more = if self.phase == Phase::Staging { OPERATION_BYTES.saturating_mul(self.operations.len() as u64) } else { 0 };
        if more.saturating_add(text.len() as u64) > MAX_BYTES {
            let reason = "there are too many changes for one decision; decide some paths at a time";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        private::write(&new, &text)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(dir)?.sync_all()
    }
}
