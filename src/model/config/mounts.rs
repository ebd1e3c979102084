//! Host files that silo.toml makes visible: the project's mount options and passed files.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::Deserialize;

/// Mount options of the project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// Write access to the project: `rw` (default), `ro`, or `review`. With `review`, changes stay in a private layer, which `silo review` lists.
    pub mode: Option<Mode>,
    /// Directories of the project that each sandbox replaces by its own: `node_modules`, `.venv`. They are stored per project; those of the
    /// host are neither visible nor changed.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Access to the project's git repository. `import` (default) imports commits, refs and the index made inside, but no file that git
    /// acts on. `read-only` and `hidden` deny changes. `direct` lets tools write the repository.
    pub git: Option<Git>,
    /// Access to unix sockets in the project: `hidden` (default) or `shown`, which lets tools connect to services of this machine.
    pub sockets: Option<Sockets>,
    /// Maximum number of guarded project files, on which programs of this machine act; a project with more is not shown.
    pub max_guarded: Option<u32>,
}

/// Access to the project's repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Git {
    /// Tools write the repository; files that git acts on are read-only.
    Direct,
    /// Tools write a private layer; objects, refs and the index are imported from it.
    #[default]
    Import,
    /// Tools can only read the repository.
    ReadOnly,
    /// Tools see an empty directory.
    Hidden,
}

/// Visibility of sockets in the project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sockets {
    /// Sockets that exist at the start are hidden.
    #[default]
    Hidden,
    /// Sockets are visible, and tools can connect to them.
    Shown,
}

/// Write access to the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Read and write.
    Rw,
    /// Read only.
    Ro,
    /// Read and write a private layer; the project does not change.
    Review,
}

/// A file of the user that a program may read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path such as \"~/.netrc\", or a table with `host` and `guest`")]
pub enum PassFile {
    /// A file with the same path inside: below `~/`, absolute, or in the project.
    Path(String),
    /// A file with another path inside.
    Table(PassFileTable),
}

/// A file of the user with its path inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PassFileTable {
    /// Host path: below `~/`, absolute, or in the project.
    pub host: String,
    /// Path inside: below `~/`, or absolute; by default the host path.
    pub guest: Option<String>,
}

impl PassFile {
    /// Returns the host path as written.
    pub fn host(&self) -> &str {
        match self {
            PassFile::Path(path) => path,
            PassFile::Table(table) => &table.host,
        }
    }

    /// Returns the path inside as written.
    pub fn guest(&self) -> &str {
        match self {
            PassFile::Path(path) => path,
            PassFile::Table(table) => table.guest.as_deref().unwrap_or(&table.host),
        }
    }

    /// True for a file of the project, which is visible anyway.
    pub fn is_of_project(&self) -> bool {
        !self.host().starts_with(['~', '/'])
    }

    /// Checks the paths.
    pub fn check(&self) -> Result<(), String> {
        for path in [self.host(), self.guest()] {
            if !is_plain(path.strip_prefix("~/").or_else(|| path.strip_prefix('/')).unwrap_or(path))
                || path.starts_with('~') && !path.starts_with("~/")
            {
                return Err(format!(
                    "\"{path}\" is not the path of a file; write ~/name, an absolute path, or one in the project, without \"..\""
                ));
            }
        }
        match self {
            PassFile::Table(table) if table.guest.as_ref().is_some_and(|guest| !guest.starts_with(['~', '/'])) => {
                Err(format!("guest \"{}\" must begin with ~/ or /", self.guest()))
            }
            _ => Ok(()),
        }
    }
}

/// Maximum length of an excluded path. It becomes the name of one directory, in which `/` takes three bytes.
const MAX_EXCLUDE_BYTES: usize = 80;

/// True if a text is a path within the project.
pub fn is_exclude(path: &str) -> bool {
    path.len() <= MAX_EXCLUDE_BYTES && is_plain(path)
}

fn is_plain(path: &str) -> bool {
    let normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    !path.is_empty()
        && !path.contains(['\0', '\n'])
        && !path.contains("//")
        && !path.ends_with('/')
        && Path::new(path).components().all(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_where_they_are_declared() {
        for (path, expect) in [
            ("~/.netrc", true),
            ("/etc/hosts", true),
            ("conf/app.toml", true),
            ("../x", false),
            ("~/../x", false),
            ("a/../../x", false),
            ("~me/x", false),
            ("~", false),
            ("", false),
            ("/", false),
            ("./x", false),
        ] {
            assert_eq!(PassFile::Path(path.to_owned()).check().is_ok(), expect, "{path}");
        }
        let table = |guest: &str| PassFile::Table(PassFileTable { host: "~/a".to_owned(), guest: Some(guest.to_owned()) });
        assert!(table("/run/secrets/a").check().is_ok() && table("b").check().is_err() && table("/a/../b").check().is_err());
        for (path, expect) in
            [("node_modules", true), ("web/node_modules", true), ("..", false), ("/a", false), ("a/", false), ("./a", false)]
        {
            assert_eq!(is_exclude(path), expect, "{path}");
        }
    }
}
