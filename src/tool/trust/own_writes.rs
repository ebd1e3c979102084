//! Records changes of a project's files by silo itself: if a file counted before, it counts afterwards.

use std::collections::BTreeMap;
use std::path::Path;

use silo_store::digest::Digest;

use crate::journal::{self, Change};
use silo_base::home::{Home, PROJECT_CONFIG, PROJECT_LOCK, RECIPES};
use silo_model::config::Settings;
use silo_model::config::project::ProjectFiles;
use silo_model::config::read;

use super::approvals::{announce, approve, approved};
use super::error::Error;
use super::exposure::{Exposures, of_settings};
use super::record::place;
use super::verdict::State;

/// Records that silo changed a file from one text to another; an empty text is a missing file. The new text counts if the old one did.
pub fn wrote(home: &Home, project: &Path, name: &str, texts: (&str, &str)) -> Result<(), Error> {
    let (before, after) = texts;
    let place = place(home, project)?;
    let held = place.lock()?;
    let files = ProjectFiles::read(project)?;
    let mut state = State::of(home, &files)?;
    let is_alone = files.names().all(|found| found == name);
    if !state.is_suspect() {
        // All files count as they are.
        state.approve(&files, &files.digests())?;
    } else if state.record.known.is_none() && before.is_empty() && is_alone {
        state.record.known = Some(BTreeMap::new());
    } else {
        let old = state.record.known.as_ref().map(|known| known.get(name));
        let counted = old.is_some_and(|old| old == Some(&Digest::of(before.as_bytes())) || old.is_none() && before.is_empty());
        if !counted {
            return Ok(());
        }
    }
    let known = state.record.known.get_or_insert_default();
    if after.is_empty() {
        known.remove(name);
    } else {
        known.insert(name.to_owned(), Digest::of(after.as_bytes()));
        place.keep_copy(name, after)?;
    }
    place.write(&state.record, &held)
}

/// Commits changes of files of a project and of the home, and records the files that silo obeys.
pub fn commit(home: &Home, project: &Path, changes: &[Change]) -> Result<(), Error> {
    journal::commit(home, changes)?;
    for change in changes {
        let name = change.path().strip_prefix(project).ok().and_then(Path::to_str);
        if let Some(name) = name.filter(|name| [PROJECT_CONFIG, PROJECT_LOCK].contains(name) || name.starts_with(RECIPES)) {
            wrote(home, project, name, change.texts())?;
        }
    }
    Ok(())
}

/// Approves the rights given by a change of a project's `silo.toml`: by the command, the user has approved them. Returns those that were
/// not approved before.
pub fn approve_change(home: &Home, project: &Path, user: &Settings, before: &str, after: &str) -> Result<Exposures, Error> {
    wrote(home, project, PROJECT_CONFIG, (before, after))?;
    let more = given_by_change(project, user, before, after)?;
    if more.is_empty() {
        return Ok(more);
    }
    let had = approved(home, project)?;
    approve(home, project, &more)?;
    Ok(more.difference(&had).cloned().collect())
}

/// Like [`approve_change`], for a change that the command writes later: its lines count once it is written.
pub fn announce_change(home: &Home, project: &Path, user: &Settings, before: &str, after: &str) -> Result<Exposures, Error> {
    let more = given_by_change(project, user, before, after)?;
    if more.is_empty() { Ok(more) } else { announce(home, project, more, Digest::of(after.as_bytes())) }
}

/// Lists the rights given by a change of a project's `silo.toml`.
pub fn given_by_change(project: &Path, user: &Settings, before: &str, after: &str) -> Result<Exposures, Error> {
    let path = project.join(PROJECT_CONFIG);
    let given = of_settings(&read::parse(after, &path)?, user);
    // An invalid text gave no rights.
    let had = read::parse(before, &path).map(|settings| of_settings(&settings, user)).unwrap_or_default();
    Ok(given.difference(&had).cloned().collect())
}
