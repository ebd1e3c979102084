//! Reads, adds and revokes approved lines of a directory.

use std::collections::BTreeMap;
use std::path::Path;

use silo_base::home::Home;

use super::error::Error;
use super::exposure::Exposures;
use super::record::place;

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
    place.write(&record, &held)
}

/// Takes the approval of lines back.
pub fn withdraw(home: &Home, dir: &Path, lines: &Exposures) -> Result<(), Error> {
    let place = place(home, dir)?;
    let held = place.lock()?;
    let mut record = place.read()?;
    record.approved.retain(|line| !lines.contains(line));
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
    let lines = std::mem::take(&mut record.approved);
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
