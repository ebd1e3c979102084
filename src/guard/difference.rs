//! Differences of guarded files between two scans.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use silo_base::sanitize;

use super::fingerprint::Content;
use super::guarded_paths::GuardAction;
use super::guards::Guards;

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Written or replaced, with the same content.
    Rewritten,
    /// Created.
    New,
    /// Removed.
    Gone,
    /// Changed content.
    Changed,
}

/// A changed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Kind of the change.
    pub change: Change,
    /// Action for this path.
    pub act: GuardAction,
    /// Program that acts on the file.
    pub of: String,
}

/// Compares two scans of a project. A created or removed directory represents everything in it.
pub fn differences(before: &Guards, after: &Guards) -> BTreeMap<PathBuf, Difference> {
    let mut found = BTreeMap::new();
    let mut whole: Option<PathBuf> = None;
    let mut paths: Vec<&PathBuf> = before.prints.keys().chain(after.prints.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        if whole.as_ref().is_some_and(|dir| path.starts_with(dir)) {
            continue;
        }
        let Some(obeyed) = after.of(path).or_else(|| before.of(path)) else { continue };
        let change = match (before.prints.get(path), after.prints.get(path)) {
            (Some(was), Some(is)) if was.content != is.content => Change::Changed,
            (Some(was), Some(is)) if !is.is_untouched_since(was) => Change::Rewritten,
            (None, Some(is)) => {
                whole = (is.content == Content::Dir).then(|| path.clone());
                Change::New
            }
            (Some(was), None) => {
                whole = (was.content == Content::Dir).then(|| path.clone());
                Change::Gone
            }
            (Some(_), Some(_)) | (None, None) => continue,
        };
        found.insert(path.clone(), Difference { change, act: obeyed.act, of: obeyed.of.clone() });
    }
    found
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Rewritten => "replaced, with the same content",
            Change::New => "new",
            Change::Gone => "gone",
            Change::Changed => "changed",
        })
    }
}

/// Formats differences, one per line. File names are escaped, because a sandbox can choose them.
pub fn lines(differences: &BTreeMap<PathBuf, Difference>) -> Vec<String> {
    let line = |(path, difference): (&PathBuf, &Difference)| format!("{} ({}; {})", sanitize::path(path), difference.change, difference.of);
    differences.iter().map(line).collect()
}
