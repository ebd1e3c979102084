//! Directories of a tool that outlive its runs, as recipes and settings name them: package caches and private state.
//!
//! A cache can be made again by whoever filled it, so it may be emptied; state cannot (a login), so nothing empties it
//! but the user. Either belongs to one project unless it says otherwise: what one project's code put there is then
//! never read by another's.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A directory that cannot outlive a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: \"{value}\" is not a directory that can be kept; write ~/name or an absolute path")]
pub struct Error {
    /// The key.
    pub key: &'static str,
    /// The path.
    pub value: String,
}

/// The longest path: it becomes the name of a directory.
const MAX_PATH_BYTES: usize = 80;

/// A directory that outlives runs, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path such as \"~/.cache/pip\", or a table with `guest`")]
pub enum KeptEntry {
    /// A path inside, for each project by itself.
    Path(String),
    /// A path with what else is said of it.
    Table(KeptTable),
}

/// A directory that outlives runs, with whom it is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeptTable {
    /// The path inside: below `~/`, or absolute.
    pub guest: String,
    /// For each project by itself, which is the default, or for the tool in all projects.
    #[serde(default)]
    pub scope: Scope,
    /// A variable that is set to the directory's path, for programs that would look elsewhere.
    pub env: Option<String>,
}

/// Whom a directory is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Each project has its own.
    #[default]
    Project,
    /// All projects that use the tool have the same one.
    Tool,
}

/// A directory of a tool that outlives its runs, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// The path inside: `~/…`, or absolute.
    pub guest: String,
    /// Whom it is for.
    pub scope: Scope,
    /// The variable that is set to its path.
    pub env: Option<String>,
}

/// Checks directories that stand under `key`; of two with the same path the later one counts.
pub fn check(key: &'static str, entries: Vec<KeptEntry>) -> Result<Vec<Kept>, Error> {
    let mut all: Vec<Kept> = Vec::new();
    for entry in entries {
        let table = match entry {
            KeptEntry::Path(guest) => KeptTable { guest, scope: Scope::Project, env: None },
            KeptEntry::Table(table) => table,
        };
        if !is_guest(&table.guest) {
            return Err(Error { key, value: table.guest });
        }
        if let Some(name) = table.env.as_ref().filter(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(Error { key, value: format!("{}, env {name}", table.guest) });
        }
        all = over(all, vec![Kept { guest: table.guest, scope: table.scope, env: table.env }]);
    }
    Ok(all)
}

/// Lays directories over others: one with a path that is there already takes its place.
pub fn over(mut under: Vec<Kept>, more: Vec<Kept>) -> Vec<Kept> {
    for kept in more {
        match under.iter_mut().find(|old| old.guest == kept.guest) {
            Some(old) => *old = kept,
            None => under.push(kept),
        }
    }
    under
}

/// Whether a path can be a kept directory's: it hides what the image has there, so it must not be all of it.
fn is_guest(path: &str) -> bool {
    /// Where a sandbox has things of its own.
    const TAKEN: [&str; 6] = ["/dev", "/proc", "/sys", "/run", "/workspace", "/etc"];
    let rest = path.strip_prefix("~/").or_else(|| path.strip_prefix('/'));
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\n']);
    let taken = TAKEN.iter().any(|taken| path == *taken || path.strip_prefix(taken).is_some_and(|rest| rest.starts_with('/')));
    path.len() <= MAX_PATH_BYTES && !taken && rest.is_some_and(|rest| rest.split('/').all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_places_are_kept() {
        for (path, expect) in [
            ("~/.cache/pip", true),
            ("/opt/cache", true),
            ("~", false),
            ("~/", false),
            ("/", false),
            ("~/../x", false),
            ("~/a//b", false),
            ("~me/x", false),
            ("relative", false),
            ("/proc/x", false),
            ("/etc", false),
            ("/etcetera", true),
            ("/workspace/x", false),
        ] {
            assert_eq!(check("cache", vec![KeptEntry::Path(path.to_owned())]).is_ok(), expect, "{path}");
        }
    }

    #[test]
    fn the_later_one_counts() {
        let table = |scope| KeptEntry::Table(KeptTable { guest: "~/a".to_owned(), scope, env: None });
        let kept =
            check("state", vec![table(Scope::Project), KeptEntry::Path("~/b".to_owned()), table(Scope::Tool)]).expect("both are right");
        assert_eq!(
            kept.iter().map(|kept| (kept.guest.as_str(), kept.scope)).collect::<Vec<_>>(),
            [("~/a", Scope::Tool), ("~/b", Scope::Project)]
        );
    }
}
