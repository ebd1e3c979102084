//! A store in a temporary directory, with helpers to fill it.

use silo_store::flock;
use silo_store::{Committed, LayerPath, Meta, Record, SharedLock, Stage, Store};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A store that is removed after the test.
pub struct Home {
    pub dir: TempDir,
    pub store: Store,
}

impl Home {
    pub fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        Home { dir, store }
    }

    pub fn shared(&self) -> SharedLock {
        flock::share(&self.store).unwrap()
    }

    /// A directory of this name beside the store, on the same file system.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[must_use]
    pub fn commit(&self, fill: impl FnOnce(&mut Stage)) -> Committed {
        let mut stage = self.store.stage().unwrap();
        fill(&mut stage);
        stage.commit(&Record::default(), &self.shared()).unwrap()
    }

    /// Commits files given as path and contents.
    #[must_use]
    pub fn files(&self, files: &[(&str, &str)]) -> Committed {
        self.commit(|stage| {
            for (name, contents) in files {
                file(stage, name, contents);
            }
        })
    }
}

pub fn path(text: &str) -> LayerPath {
    LayerPath::parse(text.as_bytes()).unwrap()
}

pub fn meta(mode: u32) -> Meta {
    Meta { mode, mtime: 1_000_000_000, ..Meta::default() }
}

pub fn file(stage: &mut Stage, name: &str, contents: &str) {
    let mut bytes = contents.as_bytes();
    stage.add_file(&path(name), &meta(0o644), &mut bytes, u64::MAX).unwrap();
}

/// Returns the names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let name = |item: std::io::Result<std::fs::DirEntry>| item.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}
