//! What became of files that are obeyed, between two looks.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use silo_base::plain;

use super::Guards;
use super::list::Act;
use super::print::Content;

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It was written or replaced, with the content that it had.
    Rewritten,
    /// It has come.
    New,
    /// It is gone.
    Gone,
    /// It has other content.
    Changed,
}

/// A path that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What became of it.
    pub change: Change,
    /// What is done about such a path.
    pub act: Act,
    /// What obeys it.
    pub of: String,
}

/// Compares two looks at a project. A directory that has come or gone stands for all that is in it.
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

/// Words a list of differences, one a line. Whoever made a file chose its name, too, so names are escaped.
pub fn lines(differences: &BTreeMap<PathBuf, Difference>) -> Vec<String> {
    let line = |(path, difference): (&PathBuf, &Difference)| format!("{} ({}; {})", plain::path(path), difference.change, difference.of);
    differences.iter().map(line).collect()
}
