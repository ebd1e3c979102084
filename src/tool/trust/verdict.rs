//! Decides whether the files of a project count, by their content and by the sandboxes that could write them.

use std::collections::BTreeMap;
use std::path::Path;

use silo_store::digest::Digest;

use silo_base::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};
use silo_model::config::project::ProjectFiles;

use super::error::Error;
use super::record::place;
use super::record::{self, Place, Record, digest_of};
use super::render;
use super::runs::{self, Runs};

/// Decision about the files of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They count.
    Counts,
    /// They count after the user approves these differences.
    Asks(Vec<String>),
}

/// A directory with its record, and the sandboxes that could have changed it.
pub struct State {
    /// The location of the record.
    pub place: Place,
    /// The record.
    pub record: Record,
    own: Runs,
    /// Other directories with sandboxes that could write the files: parent directories, and targets of symlinks.
    above: BTreeMap<String, Runs>,
    /// True if a file has a hard link, through which any sandbox may have written it.
    is_linked: bool,
}

impl State {
    /// Reads the marks of runs before the record, because an ending run writes the record before its mark.
    pub fn of(home: &Home, files: &ProjectFiles) -> Result<State, Error> {
        let place = place(home, files.root())?;
        let own = runs::read_runs(&place.runs())?;
        let mut above = BTreeMap::new();
        let outer = files.root().ancestors().skip(1).chain(files.elsewhere().flat_map(Path::ancestors));
        for dir in outer {
            // An unreadable directory has no record.
            let Ok(outer) = Place::of(home, dir) else { continue };
            let found = runs::read_runs(&outer.runs())?;
            if found.last > 0 && outer.key() != place.key() {
                above.insert(outer.key().to_owned(), found);
            }
        }
        let record = place.read()?;
        Ok(State { place, record, own, above, is_linked: files.is_linked() })
    }

    /// Returns true if these are the files that count, or approved ones.
    pub fn is_known(&self, digests: &BTreeMap<String, Digest>) -> bool {
        let known = self.record.known.as_ref();
        known == Some(digests) || self.record.approved_files == Some(digest_of(digests)) || known.is_none() && digests.is_empty()
    }

    /// Returns true if a sandbox may have changed the files since they were compared.
    pub fn is_suspect(&self) -> bool {
        let since = |(key, runs): (&String, &Runs)| runs.is_live || self.record.above.get(key) != Some(&runs.last);
        self.record.suspect || self.is_linked || self.own.is_open || self.above.iter().any(since)
    }

    /// Returns true if files with these digests count.
    pub fn counts(&self, digests: &BTreeMap<String, Digest>) -> bool {
        self.is_known(digests) || !self.is_suspect()
    }

    /// Records these as the files that count; returns true if anything changed.
    pub fn approve(&mut self, files: &ProjectFiles, digests: &BTreeMap<String, Digest>) -> Result<bool, Error> {
        let before = self.record.clone();
        if self.record.known.as_ref() != Some(digests) {
            self.record.known = Some(digests.clone());
            for name in record::DESCRIBED {
                if let Some(text) = files.text(name).ok().flatten() {
                    self.place.keep_copy(name, text)?;
                }
            }
        }
        let over: BTreeMap<String, u64> =
            self.above.iter().filter(|(_, runs)| !runs.is_live).map(|(key, runs)| (key.clone(), runs.last)).collect();
        let is_new = self.record.suspect || over.iter().any(|(key, last)| self.record.above.get(key) != Some(last));
        // A sandbox that ended after the files were read may have changed them before its end, so read them again.
        if is_new && ProjectFiles::read(files.root())?.digests() == *digests {
            self.record.suspect = false;
            self.record.above.extend(over);
        }
        Ok(self.record != before)
    }
}

/// Decides about the files of a project, as they were read.
pub fn judge(home: &Home, files: &ProjectFiles) -> Result<Verdict, Error> {
    let state = State::of(home, files)?;
    let digests = files.digests();
    if state.counts(&digests) {
        return Ok(Verdict::Counts);
    }
    Ok(Verdict::Asks(render::differences(&state.place, state.record.known.as_ref(), files)))
}

/// Finds a directory between two whose settings a sandbox may have removed, so that the settings of a parent directory would count instead.
pub fn lost_between(home: &Home, from: &Path, root: &Path) -> Result<Option<ProjectFiles>, Error> {
    for dir in from.ancestors().take_while(|dir| *dir != root) {
        let Ok(place) = Place::of(home, dir) else { continue };
        let had_settings =
            |known: &BTreeMap<String, Digest>| known.keys().any(|name| [PROJECT_CONFIG, LEGACY_CONFIG].contains(&name.as_str()));
        if place.read()?.known.as_ref().is_some_and(had_settings) {
            let files = ProjectFiles::read(dir)?;
            if judge(home, &files)? != Verdict::Counts {
                return Ok(Some(files));
            }
        }
    }
    Ok(None)
}

/// Describes the differences between files that count and those of the last time, for information.
pub fn changes(home: &Home, files: &ProjectFiles) -> Result<Vec<String>, Error> {
    let state = State::of(home, files)?;
    let digests = files.digests();
    match state.record.known.as_ref().filter(|known| **known != digests) {
        Some(known) => Ok(render::differences(&state.place, Some(known), files)),
        None => Ok(Vec::new()),
    }
}

/// Approves the files of a project, as they were read.
pub fn approve_files(home: &Home, files: &ProjectFiles) -> Result<(), Error> {
    let held = place(home, files.root())?.lock()?;
    let mut state = State::of(home, files)?;
    let digests = files.digests();
    state.approve(files, &digests)?;
    state.record.approved_files = Some(digest_of(&digests));
    state.place.write(&state.record, &held)
}
