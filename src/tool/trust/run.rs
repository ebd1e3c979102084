//! Records a run that can write a project: the files that count before it starts, and the comparison at its end.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::digest::Digest;
use silo_store::path_error::PathError;

use silo_base::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG, PROJECT_LOCK, RECIPES};
use silo_model::config::project::ProjectFiles;

use super::error::Error;
use super::record::place;
use super::runs::{self, Running};
use super::verdict::State;

/// A sandbox that can write a directory. Its holder finishes the record after the sandbox ends; a killed silo never does.
#[derive(Debug)]
pub struct RunRecord {
    home: Home,
    dir: PathBuf,
    /// Identity of the directory.
    key: String,
    before: BTreeMap<String, Digest>,
    pub(super) running: Option<Running>,
}

/// Records the files that count before a sandbox of the project starts, and returns their digests.
pub fn remember(home: &Home, files: &ProjectFiles) -> Result<BTreeMap<String, Digest>, Error> {
    let held = place(home, files.root())?.lock()?;
    let mut state = State::of(home, files)?;
    let digests = files.digests();
    if state.record.known.as_ref().is_some_and(|known| *known != digests) {
        let now = ProjectFiles::read(files.root())?.digests();
        if state.record.known.as_ref() == Some(&now) {
            // Silo itself has changed and recorded them since they were read.
            return Ok(now);
        }
    }
    if state.counts(&digests) && state.approve(files, &digests)? {
        state.place.write(&state.record, &held)?;
    }
    Ok(digests)
}

/// Before a sandbox starts, records the files that count, and marks the directory that it can write.
///
/// `files` are those of the project whose settings count; `shown` may be another directory.
pub fn begin_run(home: &Home, files: &ProjectFiles, shown: &Path) -> Result<RunRecord, Error> {
    let mut before = remember(home, files)?;
    if shown != files.root() {
        before = remember(home, &ProjectFiles::read(shown)?)?;
    }
    let place = place(home, shown)?;
    place.make()?;
    let running = Some(runs::begin(&place.runs())?);
    Ok(RunRecord { home: home.clone(), dir: shown.to_owned(), key: place.key().to_owned(), before, running })
}

impl RunRecord {
    /// Ends the run; changed files then need an approval.
    pub fn finish(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(running) = self.running.take() else { return Ok(()) };
        // Another directory is at the path now. The mark of the written directory stays open, wherever that is.
        if place(&self.home, &self.dir)?.key() != self.key {
            return Ok(());
        }
        let files = ProjectFiles::read(&self.dir)?;
        let digests = files.digests();
        if digests != self.before {
            let place = place(&self.home, &self.dir)?;
            let held = place.lock()?;
            let mut state = State::of(&self.home, &files)?;
            if !state.is_known(&digests) {
                state.record.suspect = true;
                state.record.known.get_or_insert_with(|| self.before.clone());
                state.place.write(&state.record, &held)?;
            }
        }
        let failed = |source: io::Error| PathError { doing: "mark the end of the run in", path: self.dir.clone(), source };
        Ok(running.end().map_err(failed)?)
    }
}

impl Drop for RunRecord {
    fn drop(&mut self) {
        // After an error the mark stays open, as if silo had been killed.
        let _ = self.end();
    }
}

/// Files that Silo itself obeys.
const SILOS: [&str; 4] = [PROJECT_CONFIG, LEGACY_CONFIG, PROJECT_LOCK, RECIPES];

/// Marks the project as suspect if silo obeys one of these paths, which appeared during a run.
pub fn came_inside(home: &Home, project: &Path, paths: &[PathBuf]) -> Result<(), Error> {
    if !paths.iter().any(|path| SILOS.iter().any(|name| path.starts_with(name))) {
        return Ok(());
    }
    let place = place(home, project)?;
    let held = place.lock()?;
    let mut record = place.read()?;
    record.known.get_or_insert_default();
    record.suspect = true;
    place.write(&record, &held)
}
