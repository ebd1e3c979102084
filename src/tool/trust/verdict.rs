//! Whether the files of a project count, by their content and by the sandboxes that could write them.

use std::collections::BTreeMap;
use std::path::Path;

use silo_store::digest::Digest;

use crate::config::project::ProjectFiles;
use crate::home::{Home, LEGACY_CONFIG, PROJECT_CONFIG};

use super::record::{self, Place, Record, digest_of};
use super::runs::{self, Runs};
use super::{Error, place, words};

/// Whether the files of a project count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They do.
    Counts,
    /// They do once the user has approved these differences.
    Asks(Vec<String>),
}

/// A directory with what is recorded of it, and who could have changed it.
pub struct State {
    /// Where the record is.
    pub place: Place,
    /// What is recorded.
    pub record: Record,
    own: Runs,
    /// Other directories in which sandboxes ran that could write the files: those above, and those that links lead to.
    above: BTreeMap<String, Runs>,
    /// A file has a second name, which any sandbox may have written.
    is_linked: bool,
}

impl State {
    /// Reads the marks of runs first: one that ends meanwhile writes the record before its mark goes.
    pub fn of(home: &Home, files: &ProjectFiles) -> Result<State, Error> {
        let place = place(home, files.root())?;
        let own = runs::look(&place.runs())?;
        let mut above = BTreeMap::new();
        let outer = files.root().ancestors().skip(1).chain(files.elsewhere().flat_map(Path::ancestors));
        for dir in outer {
            // A directory that cannot be looked at has no record by its identity.
            let Ok(outer) = Place::of(home, dir) else { continue };
            let found = runs::look(&outer.runs())?;
            if found.last > 0 && outer.key() != place.key() {
                above.insert(outer.key().to_owned(), found);
            }
        }
        let record = place.read()?;
        Ok(State { place, record, own, above, is_linked: files.is_linked() })
    }

    /// Whether these are the files that count, or approved ones.
    pub fn is_known(&self, digests: &BTreeMap<String, Digest>) -> bool {
        let known = self.record.known.as_ref();
        known == Some(digests) || self.record.approved_files == Some(digest_of(digests)) || known.is_none() && digests.is_empty()
    }

    /// Whether a sandbox may have changed the files since they were compared.
    pub fn is_suspect(&self) -> bool {
        let since = |(key, runs): (&String, &Runs)| runs.is_live || self.record.above.get(key) != Some(&runs.last);
        self.record.suspect || self.is_linked || self.own.is_open || self.above.iter().any(since)
    }

    /// Whether files of these digests count.
    pub fn counts(&self, digests: &BTreeMap<String, Digest>) -> bool {
        self.is_known(digests) || !self.is_suspect()
    }

    /// Makes these the files that count, and returns whether anything changed.
    pub fn settle(&mut self, files: &ProjectFiles, digests: &BTreeMap<String, Digest>) -> Result<bool, Error> {
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
        // A sandbox that ended after the files were read may have changed them before it ended.
        if is_new && ProjectFiles::read(files.root())?.digests() == *digests {
            self.record.suspect = false;
            self.record.above.extend(over);
        }
        Ok(self.record != before)
    }
}

/// Judges the files of a project, as they were read.
pub fn judge(home: &Home, files: &ProjectFiles) -> Result<Verdict, Error> {
    let state = State::of(home, files)?;
    let digests = files.digests();
    if state.counts(&digests) {
        return Ok(Verdict::Counts);
    }
    Ok(Verdict::Asks(words::differences(&state.place, state.record.known.as_ref(), files)))
}

/// Finds settings that a sandbox may have removed from a directory between two, so that those of one above it would count.
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

/// Describes how files that count differ from those of the last time, for a person who wants to know.
pub fn changes(home: &Home, files: &ProjectFiles) -> Result<Vec<String>, Error> {
    let state = State::of(home, files)?;
    let digests = files.digests();
    match state.record.known.as_ref().filter(|known| **known != digests) {
        Some(known) => Ok(words::differences(&state.place, Some(known), files)),
        None => Ok(Vec::new()),
    }
}

/// Approves the files of a project, as they were read.
pub fn approve_files(home: &Home, files: &ProjectFiles) -> Result<(), Error> {
    let held = place(home, files.root())?.hold()?;
    let mut state = State::of(home, files)?;
    let digests = files.digests();
    state.settle(files, &digests)?;
    state.record.approved_files = Some(digest_of(&digests));
    state.place.write(&state.record, &held)
}
