//! The repositories under a layer at the start of the run, in memory and in `begin.json`.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use silo_store::read_limited;

use super::dir_fd::{Dir, is_absent};
use super::import::{self, Import};
use super::oid::Format;
use super::repository::{self, Repository};
use super::start_state::StartState;

/// Version of `begin.json`.
const VERSION: u32 = 2;
/// Maximum size of `begin.json`.
const MAX_BYTES: u64 = 1 << 30;
/// File name in a layer's directory.
const NAME: &str = "begin.json";

/// Inputs of a new layer.
#[derive(Clone, Copy, Debug)]
pub struct LayerInputs<'a> {
    /// Directory of all layers.
    pub layers: &'a Path,
    /// Project directory.
    pub project: &'a Path,
    /// Repository of the project.
    pub repository: &'a Repository,
    /// Working trees of submodules; their repositories may be below the project's.
    pub submodules: &'a [PathBuf],
}

/// Device and inode of a directory.
pub type Identity = (u64, u64);

/// Returns the identity of an open directory.
#[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
pub fn identity(dir: &Dir) -> io::Result<Identity> {
    let stat = dir.own_stat()?;
    Ok((stat.st_dev as u64, stat.st_ino as u64))
}

/// Contents of `begin.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Project of the run.
    pub project: PathBuf,
    repositories: Vec<OverFile>,
}

/// One repository at the start of the run.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OverFile {
    tree: PathBuf,
    own: PathBuf,
    common: PathBuf,
    own_inside: PathBuf,
    common_inside: PathBuf,
    sha256: bool,
    /// A different directory at the same path is another repository.
    own_identity: Identity,
    common_identity: Identity,
    begin: serde_json::Value,
}

/// Reason why a layer cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be made or read.
    #[error("cannot make a layer over the repository in {path}", path = .path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

impl Record {
    /// Records the current state of the repositories.
    pub fn of_repositories(over: LayerInputs<'_>) -> Result<Record, Error> {
        let lower = over.repository.common();
        let mut repositories = vec![write_begin_file(over.repository, lower, Path::new(""))?];
        for tree in over.submodules {
            let Some(inner) = Repository::find(&over.project.join(tree))? else { continue };
            if inner.common().starts_with(lower) && inner.common() != lower && inner.layout() == repository::Layout::Files {
                repositories.push(write_begin_file(&inner, lower, tree)?);
            }
        }
        Ok(Record { version: VERSION, project: over.project.to_owned(), repositories })
    }

    /// Reads the record of a layer.
    pub fn read(dir: &Path) -> io::Result<Record> {
        let record: Record = serde_json::from_slice(&read_limited::read(&dir.join(NAME), MAX_BYTES)?)?;
        if record.version != VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{NAME} is of version {}", record.version)));
        }
        Ok(record)
    }

    /// Writes the record into the directory of its layer.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        silo_store::private::write(&dir.join(NAME), &serde_json::to_vec(self)?)
    }

    /// True if the project is gone, or each of its repositories is gone or replaced. An unreadable directory counts as existing.
    pub fn is_gone(&self) -> bool {
        let absent = |found: io::Result<bool>| match found {
            Ok(is_same) => !is_same,
            Err(error) => is_absent(&error),
        };
        let is_project = matches!(self.project.try_exists(), Ok(false));
        is_project || self.repositories.iter().all(|written| absent(written.open().map(|opened| opened.is_some())))
    }

    /// Opens the repositories.
    pub fn open(self, run: &str) -> io::Result<Opened> {
        let first = self.repositories.first().ok_or(io::ErrorKind::InvalidData)?;
        let place = Place { common: first.common.clone(), identity: first.common_identity };
        let mut opened = Opened { imports: Vec::new(), place, is_replaced: false };
        for written in self.repositories {
            let (own, common) = match written.open() {
                Ok(Some(dirs)) => dirs,
                // Nothing is imported into a repository that is gone or replaced.
                Ok(None) => {
                    opened.is_replaced = true;
                    continue;
                }
                Err(error) if is_absent(&error) => {
                    opened.is_replaced = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let format = if written.sha256 { Format::Sha256 } else { Format::Sha1 };
            let begin = StartState::from_json(&written.begin, format).ok_or(io::ErrorKind::InvalidData)?;
            let place = import::Place { own, common, own_inside: written.own_inside, common_inside: written.common_inside, format };
            opened.imports.push((written.tree, Import::new(place, begin, run)));
        }
        Ok(opened)
    }
}

impl OverFile {
    /// Opens the two directories; `None` if they were replaced. The identity check uses the open descriptors, and so do all later writes.
    fn open(&self) -> io::Result<Option<(Dir, Dir)>> {
        let (own, common) = (Dir::open(&self.own)?, Dir::open(&self.common)?);
        let is_same = identity(&own)? == self.own_identity && identity(&common)? == self.common_identity;
        Ok(is_same.then_some((own, common)))
    }
}

fn write_begin_file(repository: &Repository, lower: &Path, tree: &Path) -> Result<OverFile, Error> {
    let failed = |source| Error::File { path: repository.common().to_owned(), source };
    let (own, common) = (Dir::open(repository.own()).map_err(failed)?, Dir::open(repository.common()).map_err(failed)?);
    let begin = StartState::read(&own, &common, repository.format()).map_err(failed)?;
    let inside = |path: &Path| path.strip_prefix(lower).unwrap_or_else(|_| Path::new("")).to_owned();
    Ok(OverFile {
        tree: tree.to_owned(),
        own: repository.own().to_owned(),
        common: repository.common().to_owned(),
        own_inside: inside(repository.own()),
        common_inside: inside(repository.common()),
        sha256: repository.format() == Format::Sha256,
        own_identity: identity(&own).map_err(failed)?,
        common_identity: identity(&common).map_err(failed)?,
        begin: begin.to_json(),
    })
}

/// Path of the project's repository at the start of the run.
#[derive(Debug)]
pub struct Place {
    /// Path.
    pub common: PathBuf,
    /// Identity of the directory at that time.
    pub identity: Identity,
}

impl Place {
    /// True if the path now has another repository, or none.
    pub fn is_replaced(&self) -> bool {
        let now = Dir::open(&self.common).and_then(|dir| identity(&dir));
        !now.is_ok_and(|now| now == self.identity)
    }
}

/// The open repositories of a layer.
#[derive(Debug)]
pub struct Opened {
    /// Each repository, by its working tree in the project.
    pub imports: Vec<(PathBuf, Import)>,
    /// Path of the project's own repository.
    pub place: Place,
    /// True if one of them is gone or replaced.
    pub is_replaced: bool,
}
