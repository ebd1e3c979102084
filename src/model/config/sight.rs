//! What of the host a program sees by silo.toml: how the project is shown, and files of the user's.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::Deserialize;

/// How the project is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    /// Whether the project can be written: `rw`, which is the default, or `ro`.
    pub mode: Option<Mode>,
    /// Directories of the project that a sandbox has of its own: `node_modules`, `.venv`. They are kept for the project,
    /// and the ones of the host are neither seen nor touched.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// How the project's git repository is shown: `import`, which is the default, takes over commits, refs and the index of
    /// what is done inside, and nothing that git obeys; `read-only`; `hidden`; `direct` lets tools write it.
    pub git: Option<Git>,
    /// Whether tools can connect to unix sockets of this machine that lie in the project: `hidden`, which is the default, or
    /// `shown`.
    pub sockets: Option<Sockets>,
    /// Most files of the project that are guarded because programs of this machine obey them; a project with more is not shown.
    pub max_guarded: Option<u32>,
}

/// How the project's repository is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Git {
    /// Tools write it; what git obeys of it is read-only.
    Direct,
    /// Tools write a layer over it, of which objects, refs and the index are taken over.
    #[default]
    Import,
    /// Tools read it.
    ReadOnly,
    /// Tools see an empty directory.
    Hidden,
}

/// Whether sockets that lie in the project are seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sockets {
    /// Those that are there at the start are not.
    #[default]
    Hidden,
    /// They are, and can be connected to.
    Shown,
}

/// Whether the project can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Read and write.
    Rw,
    /// Read only.
    Ro,
}

/// A file of the user's that a program may read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path such as \"~/.netrc\", or a table with `host` and `guest`")]
pub enum PassFile {
    /// A file that has the same place inside: below `~/`, absolute, or in the project.
    Path(String),
    /// A file with a place of its own inside.
    Table(PassFileTable),
}

/// A file of the user's with its place inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PassFileTable {
    /// The file: below `~/`, absolute, or in the project.
    pub host: String,
    /// Where it is inside: below `~/`, or absolute; by default where it is outside.
    pub guest: Option<String>,
}

impl PassFile {
    /// The file, as it is written.
    pub fn host(&self) -> &str {
        match self {
            PassFile::Path(path) => path,
            PassFile::Table(table) => &table.host,
        }
    }

    /// Its place inside, as it is written.
    pub fn guest(&self) -> &str {
        match self {
            PassFile::Path(path) => path,
            PassFile::Table(table) => table.guest.as_deref().unwrap_or(&table.host),
        }
    }

    /// Whether it is a file of the project, which a program sees anyway.
    pub fn is_of_project(&self) -> bool {
        !self.host().starts_with(['~', '/'])
    }

    /// Says what is wrong with it.
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

/// The longest name of an excluded directory: it becomes the name of a directory, in which `/` takes three bytes.
const MAX_EXCLUDE_BYTES: usize = 80;

/// Says whether a text is a path within the project.
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
