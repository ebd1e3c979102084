//! Persistent directories of a tool, as recipes and settings name them: package caches and private state.
//!
//! A cache can be refilled by its programs, so Silo may empty it. State (a login) cannot be recreated, so only the user removes it. By
//! default each project has its own, so the code of one project never reads data that another project's code wrote.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An invalid persistent directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: \"{value}\" cannot be a persistent directory; write ~/name or an absolute path")]
pub struct Error {
    /// Key.
    pub key: &'static str,
    /// Path.
    pub value: String,
}

/// Maximum length of the path, which becomes the name of a directory.
const MAX_PATH_BYTES: usize = 80;

/// A persistent directory, as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path such as \"~/.cache/pip\", or a table with `guest`")]
pub enum KeptEntry {
    /// A path inside, separate for each project.
    Path(String),
    /// A path with options.
    Table(KeptTable),
}

/// A persistent directory with its scope.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeptTable {
    /// Path inside: below `~/`, or absolute.
    pub guest: String,
    /// Sharing: separate for each project (default), or shared by all projects of the tool.
    #[serde(default)]
    pub scope: Scope,
    /// Variable that is set to the directory's path, for programs with another default.
    pub env: Option<String>,
}

/// Sharing of a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Each project has its own.
    #[default]
    Project,
    /// All projects that use the tool share it.
    Tool,
}

/// A checked persistent directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeptDir {
    /// Path inside: `~/…`, or absolute.
    pub guest: String,
    /// Sharing.
    pub scope: Scope,
    /// Variable that is set to its path.
    pub env: Option<String>,
}

/// Checks the directories of the key `key`; of two with the same path, the later wins.
pub fn check(key: &'static str, entries: Vec<KeptEntry>) -> Result<Vec<KeptDir>, Error> {
    let mut all: Vec<KeptDir> = Vec::new();
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
        all = over(all, vec![KeptDir { guest: table.guest, scope: table.scope, env: table.env }]);
    }
    Ok(all)
}

/// Adds directories; one with an existing path replaces it.
pub fn over(mut under: Vec<KeptDir>, more: Vec<KeptDir>) -> Vec<KeptDir> {
    for kept in more {
        match under.iter_mut().find(|old| old.guest == kept.guest) {
            Some(old) => *old = kept,
            None => under.push(kept),
        }
    }
    under
}

/// True if a path can be persistent. It hides the image's contents there, so it must not be a system directory or the root.
fn is_guest(path: &str) -> bool {
    /// Directories that the sandbox provides itself.
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
