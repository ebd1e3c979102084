//! Reads, adds and revokes approved lines of a directory.

use std::collections::BTreeMap;
use std::path::Path;

use silo_base::home::{Home, PROJECT_CONFIG};
use silo_model::config::project::ProjectFiles;
use silo_store::digest::Digest;

use super::error::Error;
use super::exposure::Exposures;
use super::record::{Announced, place};

/// Returns the approved lines of the directory at a canonical path.
pub fn approved(home: &Home, dir: &Path) -> Result<Exposures, Error> {
    Ok(place(home, dir)?.read()?.approved)
}

/// Approves additional lines.
pub fn approve(home: &Home, dir: &Path, more: &Exposures) -> Result<(), Error> {
    let place = place(home, dir)?;
    let held = place.lock()?;
    let mut record = place.read()?;
    record.approved.extend(more.iter().cloned());
    if record.announced.as_ref().is_some_and(|announced| announced.lines.is_subset(more)) {
        record.announced = None;
    }
    place.write(&record, &held)
}

/// Approves lines of a change that a command is about to write: they count once `silo.toml` has this digest. Returns those that are new.
pub fn announce(home: &Home, dir: &Path, lines: Exposures, settings: Digest) -> Result<Exposures, Error> {
    let place = place(home, dir)?;
    let held = place.lock()?;
    let mut record = place.read()?;
    let new: Exposures = lines.difference(&record.approved).cloned().collect();
    if !new.is_empty() {
        record.announced = Some(Announced { lines: new.clone(), settings });
        place.write(&record, &held)?;
    }
    Ok(new)
}

/// Returns the approved lines for the files of a project. Approves announced lines whose change is in these files, and drops those of a
/// command that was killed before it. (A command that still makes its change approves its lines itself.)
pub fn approved_for(home: &Home, files: &ProjectFiles) -> Result<Exposures, Error> {
    let place = place(home, files.root())?;
    let record = place.read()?;
    if record.announced.is_none() {
        return Ok(record.approved);
    }
    let held = place.lock()?;
    let mut record = place.read()?;
    if let Some(announced) = record.announced.take() {
        if files.digests().get(PROJECT_CONFIG) == Some(&announced.settings) {
            record.approved.extend(announced.lines);
        }
        place.write(&record, &held)?;
    }
    Ok(record.approved)
}

/// Drops the lines of a change that was not made.
pub fn withdraw(home: &Home, dir: &Path) -> Result<(), Error> {
    let place = place(home, dir)?;
    let held = place.lock()?;
    let mut record = place.read()?;
    record.announced = None;
    place.write(&record, &held)
}

/// Revoked approvals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Lines.
    pub lines: Exposures,
    /// Names of files that were approved by their content.
    pub files: Vec<String>,
}

/// Revokes every approval of the directory at a canonical path.
pub fn revoke(home: &Home, dir: &Path) -> Result<Revoked, Error> {
    let place = place(home, dir)?;
    let held = place.lock()?;
    let mut record = place.read()?;
    let mut lines = std::mem::take(&mut record.approved);
    lines.extend(record.announced.take().into_iter().flat_map(|announced| announced.lines));
    let mut files = Vec::new();
    if record.approved_files.take().is_some() {
        files.extend(record.known.take().into_iter().flatten().map(|(name, _)| name));
        record.known = Some(BTreeMap::new());
        record.suspect = true;
    }
    let revoked = Revoked { lines, files };
    if revoked != Revoked::default() {
        place.write(&record, &held)?;
    }
    Ok(revoked)
}
