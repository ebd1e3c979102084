//! Package ecosystems: resolves `@pypi` and the like to host names.
//!
//! Silo contains no registry host. An ecosystem is either set in `silo.toml`, or learned from the pinned package client: a recipe's probe
//! makes a small request, and the host names that it needed are stored in `~/.silo/ecosystems/<name>.toml`, with the user's registry
//! settings at that time. If these settings change, the stored names are ignored.

pub mod registries;

use std::fs;
use std::io;
use std::path::Path;

use silo_store::path_error::PathError;

use serde::{Deserialize, Serialize};

use crate::document;
use silo_base::grant::HostGrant;
use silo_base::home::Home;

/// The version of the format.
const VERSION: u32 = 1;

/// The learned hosts of an ecosystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The host names, each with its port, sorted.
    pub names: Vec<HostGrant>,
    /// The user's registry settings at that time, as `variable=value`, sorted.
    pub settings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    settings: Vec<String>,
    names: Vec<String>,
}

impl Learned {
    /// Returns the host names as one text.
    pub fn listed(&self) -> String {
        self.names.iter().map(HostGrant::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Errors of the stored names.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is malformed.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
}

/// Reads the learned hosts of an ecosystem; `None` if there are none.
pub fn get(home: &Home, name: &str) -> Result<Option<Learned>, Error> {
    let path = home.ecosystem(name);
    let Some(written) = document::read::<Written>(&path)? else { return Ok(None) };
    let wrong = |message: String| Err(document::Error::Meaning { path: path.clone(), message }.into());
    document::check_format(&path, written.format, VERSION, "remove the file to learn it again")?;
    let mut names = Vec::with_capacity(written.names.len());
    for text in written.names {
        match HostGrant::parse(&text) {
            Some(name) => names.push(name),
            None => return wrong(format!("\"{text}\" is not a name")),
        }
    }
    Ok(Some(Learned { names, settings: written.settings }))
}

/// Stores the learned hosts, by an atomic rename.
pub fn put(home: &Home, name: &str, learned: &Learned) -> Result<(), Error> {
    let written =
        Written { format: VERSION, settings: learned.settings.clone(), names: learned.names.iter().cloned().map(String::from).collect() };
    let text = toml::to_string(&written).expect("strings and numbers are TOML");
    let path = home.ecosystem(name);
    document::write(&path, &text).map_err(|source| Error::File(PathError { doing: "write", path, source }))
}

/// Removes the learned hosts; returns whether there were any.
pub fn forget(home: &Home, name: &str) -> Result<bool, Error> {
    let path = home.ecosystem(name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::File(PathError { doing: "remove", path, source })),
    }
}

/// Reads the names that a run recorded, one a line; sorted.
pub fn noted(path: &Path) -> Result<Vec<HostGrant>, Error> {
    let text = document::text_of(path)?.unwrap_or_default();
    let mut names: Vec<HostGrant> = text.lines().filter_map(HostGrant::parse).collect();
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_hosts_are_stored_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        assert_eq!(get(&home, "x").expect("nothing"), None);
        let learned = Learned {
            names: vec![HostGrant::parse("a.example:443").expect("a grant")],
            settings: vec!["PIP_INDEX_URL=http://b".to_owned()],
        };
        put(&home, "x", &learned).expect("written");
        assert_eq!(get(&home, "x").expect("read"), Some(learned));
        assert!(forget(&home, "x").expect("removed") && !forget(&home, "x").expect("gone"));
        fs::write(home.ecosystem("y"), "format = 1\nsettings = []\nnames = [\"a b\"]\n").expect("written");
        assert!(get(&home, "y").is_err());
    }
}
