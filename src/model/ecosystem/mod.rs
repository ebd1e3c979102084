//! Package ecosystems: which names `@pypi` and its like stand for.
//!
//! No registry is spelled out in Silo. What an ecosystem is was said in `silo.toml`, or is learned from the pinned
//! client itself: a recipe's probe asks for something small, and the names that it needed are kept in
//! `~/.silo/ecosystems/<name>.toml`, together with the user's own settings under which they were learned. When these
//! settings change, what was learned counts no more.

pub mod registries;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::document;
use silo_base::grant::Grant;
use silo_base::home::Home;

/// The version of the format.
const VERSION: u32 = 1;

/// What was learned of one ecosystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The names, each with its port, sorted.
    pub names: Vec<String>,
    /// The user's own settings meanwhile, as `variable=value`, sorted.
    pub settings: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    settings: Vec<String>,
    names: Vec<String>,
}

/// Why what was learned could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not as it was written.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The system refused.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads what was learned of an ecosystem, or `None` where nothing was.
pub fn get(home: &Home, name: &str) -> Result<Option<Learned>, Error> {
    let path = home.ecosystem(name);
    let Some(written) = document::read::<Written>(&path)? else { return Ok(None) };
    let wrong = |message: String| Err(document::Error::Meaning { path: path.clone(), message }.into());
    if written.format != VERSION {
        return wrong(format!("format {} is not known to this silo; remove the file to have it learned anew", written.format));
    }
    if let Some(odd) = written.names.iter().find(|name| Grant::parse(name).is_none()) {
        return wrong(format!("\"{odd}\" is not a name"));
    }
    Ok(Some(Learned { names: written.names, settings: written.settings }))
}

/// Keeps what was learned, by one rename.
pub fn put(home: &Home, name: &str, learned: &Learned) -> Result<(), Error> {
    let written = Written { format: VERSION, settings: learned.settings.clone(), names: learned.names.clone() };
    let text = toml::to_string(&written).expect("strings and numbers are TOML");
    let path = home.ecosystem(name);
    document::write(&path, &text).map_err(|source| Error::File { doing: "write", path, source })
}

/// Forgets what was learned; returns whether there was anything.
pub fn forget(home: &Home, name: &str) -> Result<bool, Error> {
    let path = home.ecosystem(name);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::File { doing: "remove", path, source }),
    }
}

/// Reads the names that a run noted, one a line; sorted.
pub fn noted(path: &Path) -> Result<Vec<String>, Error> {
    let text = document::text_of(path)?.unwrap_or_default();
    let mut names: Vec<String> = text.lines().filter(|line| Grant::parse(line).is_some()).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_kept_and_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        assert_eq!(get(&home, "x").expect("nothing"), None);
        let learned = Learned { names: vec!["a.example:443".to_owned()], settings: vec!["PIP_INDEX_URL=http://b".to_owned()] };
        put(&home, "x", &learned).expect("written");
        assert_eq!(get(&home, "x").expect("read"), Some(learned));
        assert!(forget(&home, "x").expect("removed") && !forget(&home, "x").expect("gone"));
        fs::write(home.ecosystem("y"), "format = 1\nsettings = []\nnames = [\"a b\"]\n").expect("written");
        assert!(get(&home, "y").is_err());
    }
}
