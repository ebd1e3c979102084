//! Single-file Python scripts with dependencies: resolves them, pins them in `SCRIPT.lock` beside the script, and builds an image with them.
//!
//! Both are steps in one-off images of Python. The first image has only the resolved lock, and the second one the packages of a lock. pip
//! verifies their digests, so the image of a lock is the same on every machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use silo_build::image;
use silo_model::document;
use silo_model::recipe::steps::{Command, StepEntry, StepTable, check_step};
use silo_model::recipe::{Step, error};
use silo_model::script::{self, ScriptMetadata};
use silo_model::script_lock::{self, ScriptLock};
use silo_store::path_error::PathError;
use silo_store::read_limited;
use silo_store::resolve_in_root;

use crate::journal::{self, Change};

use super::install;
use super::one_off::{self, OneOff, OneOffOptions};
use super::{Context, View};

/// The tool that runs scripts.
pub const TOOL: &str = "python";

/// Limit on the size of a script and of its lock.
const MAX_BYTES: u64 = 4 << 20;

/// The program that resolves dependencies, and its output in the image.
const RESOLVER: &str = include_str!("script_lock.py");
const RESOLVED: &str = "/opt/script.lock";

/// Installs the requirements on its command line.
const INSTALL: &str = "# the packages of the script
printf '%s\\n' \"$@\" > /tmp/requirements.txt
python3 -m pip install --quiet --no-deps --disable-pip-version-check --require-hashes -r /tmp/requirements.txt";

/// A script with metadata.
#[derive(Clone, Debug)]
pub struct Script {
    /// Path of the script.
    pub path: PathBuf,
    /// Its metadata.
    pub metadata: ScriptMetadata,
}

/// Error of a script's dependencies.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Invalid metadata.
    #[error("{path}: {source}", path = .path.display())]
    Metadata {
        /// The script.
        path: PathBuf,
        /// The fault.
        source: script::Error,
    },
    /// A lock that cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// An unusable lock.
    #[error("{path}: {source}", path = .path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// The fault.
        source: script_lock::Error,
    },
    /// The lock cannot be written.
    #[error("cannot write {path}, which pins the dependencies of the script", path = .path.display())]
    Write {
        /// The lock.
        path: PathBuf,
        /// Error of the system.
        source: PathError,
    },
    /// The resolver gave no lock for the dependencies.
    #[error("the dependencies of {path} were not resolved", path = .path.display())]
    Unresolved {
        /// The script.
        path: PathBuf,
    },
    /// A step that is no step.
    #[error(transparent)]
    Step(#[from] error::Error),
    /// The image could not be built.
    #[error(transparent)]
    Install(#[from] install::Error),
}

/// Reads a script; `None` if it cannot be read or has no metadata.
pub fn read(path: &Path) -> Result<Option<Script>, Error> {
    let Some(text) = read_limited::read(path, MAX_BYTES).ok().and_then(|bytes| String::from_utf8(bytes).ok()) else { return Ok(None) };
    let metadata = script::metadata(&text).map_err(|source| Error::Metadata { path: path.to_owned(), source })?;
    Ok(metadata.map(|metadata| Script { path: path.to_owned(), metadata }))
}

/// Returns the path of a script's lock.
pub fn lock_path(script: &Path) -> PathBuf {
    let mut name: OsString = script.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Finds the image of a script, if its lock fits and the image exists.
pub fn find(view: View<'_>, script: &Script, version: Option<&str>) -> Result<Option<OneOff>, Error> {
    match current_lock(script)? {
        Some(lock) => Ok(one_off::find(view, &packages(script, &lock, version)?)?),
        None => Ok(None),
    }
}

/// Resolves the dependencies of a script, unless its lock fits, and builds the image.
pub fn build(context: &Context<'_>, script: &Script, version: Option<&str>) -> Result<(), Error> {
    let lock = match current_lock(script)? {
        Some(lock) => lock,
        None => resolve(context, script, version)?,
    };
    Ok(one_off::build(context, &packages(script, &lock, version)?)?)
}

/// Returns the lock of a script, if it was made for its dependencies.
fn current_lock(script: &Script) -> Result<Option<ScriptLock>, Error> {
    let path = lock_path(&script.path);
    let Some(text) = document::text_of(&path)? else {
        // Without dependencies there is nothing to pin.
        return Ok(script.metadata.dependencies.is_empty().then(ScriptLock::default));
    };
    let lock = script_lock::read(&text).map_err(|source| Error::Lock { path, source })?;
    Ok(Some(lock).filter(|lock| lock.is_of(&script.metadata)))
}

fn resolve(context: &Context<'_>, script: &Script, version: Option<&str>) -> Result<ScriptLock, Error> {
    let requires = script.metadata.requires_python.clone().unwrap_or_default();
    let program = [RESOLVED.to_owned(), requires].into_iter().chain(script.metadata.dependencies.iter().cloned());
    let words = ["python3", "-c", RESOLVER].map(str::to_owned).into_iter().chain(program).collect();
    let wish = OneOffOptions { name: TOOL.to_owned(), version: version.map(str::to_owned), update: false, steps: vec![step(words)?] };
    one_off::build(context, &wish)?;
    let unresolved = || Error::Unresolved { path: script.path.clone() };
    let image = one_off::find(context.view(), &wish)?.ok_or_else(unresolved)?.tool.image;
    let bytes = resolve_in_root::read(&image::root(context.home, image), Path::new(RESOLVED), MAX_BYTES);
    let text = String::from_utf8(bytes.unwrap_or_default()).map_err(|_| unresolved())?;
    let path = lock_path(&script.path);
    let lock = script_lock::read(&text).map_err(|source| Error::Lock { path: path.clone(), source })?;
    if !lock.is_of(&script.metadata) {
        return Err(unresolved());
    }
    let before = document::text_of(&path)?;
    let written = Change::new(context.home, &path, before, Some(text)).and_then(|change| journal::commit(context.home, &[change]));
    written.map_err(|source| Error::Write { path, source })?;
    Ok(lock)
}

/// Returns the one-off tool with the packages of a lock.
fn packages(script: &Script, lock: &ScriptLock, version: Option<&str>) -> Result<OneOffOptions, Error> {
    let lines = lock.lines().map_err(|source| Error::Lock { path: lock_path(&script.path), source })?;
    let words = ["sh", "-e", "-c", INSTALL, "sh"].map(str::to_owned).into_iter().chain(lines.iter().cloned()).collect();
    let steps = if lines.is_empty() { Vec::new() } else { vec![step(words)?] };
    Ok(OneOffOptions { name: TOOL.to_owned(), version: version.map(str::to_owned), update: false, steps })
}

/// Returns a step with access to the package index.
fn step(words: Vec<String>) -> Result<Step, Error> {
    let table = StepTable { network: vec!["@pypi".to_owned()], ..StepTable::new(Command::Words(words)) };
    Ok(check_step("steps", StepEntry::Table(table))?)
}
