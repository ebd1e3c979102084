//! The contents of a directory as one digest, which every change of a file in it changes.
//!
//! A rename of a directory keeps the state of all files in it. So a digest from before the rename detects a change in between.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use silo_guard::git::dir_fd::{Dir, Kind};
use silo_store::digest::{Digest, Hasher};

use crate::mark::{Known, Mark};

/// Maximum number of entries of a compared directory.
const MAX_ENTRIES: usize = 1_000_000;

/// Returns the digest of the entry's contents; `None` if it is not a directory.
pub fn of(parent: &Dir, name: &Path) -> io::Result<Option<Digest>> {
    let is_dir = parent.stat(name)?.is_some_and(|stat| Kind::of(&stat) == Kind::Dir);
    if is_dir { digest(&parent.dir(name)?).map(Some) } else { Ok(None) }
}

/// Hashes the state of each entry: type, permissions, inode, size, and the time of the last change.
fn digest(top: &Dir) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut left = MAX_ENTRIES;
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let opened = top.dir(&dir)?;
        let names = opened.list(left)?;
        left -= names.len();
        for name in names {
            let path = dir.join(&name);
            // A file that disappears in between gives another digest.
            let Some(stat) = opened.stat(Path::new(&name))? else { continue };
            let known = Known::of(&stat);
            hasher.update(&(path.as_os_str().len() as u64).to_be_bytes());
            hasher.update(path.as_os_str().as_bytes());
            hasher.update(Mark::Known(known).text().as_bytes());
            if known.kind == Kind::Dir {
                dirs.push(path);
            }
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_digest_survives_a_rename_and_no_change() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        fs::create_dir_all(root.join("d/e")).expect("made");
        fs::write(root.join("d/e/x"), "x").expect("written");
        fs::write(root.join("d/y"), "y").expect("written");
        let top = Dir::open(root).expect("there");
        let now = |name: &str| of(&top, Path::new(name)).expect("read");
        let first = now("d");
        assert!(first.is_some() && now("d/y").is_none() && now("none").is_none());
        fs::rename(root.join("d"), root.join("moved")).expect("renamed");
        assert_eq!(now("moved"), first);
        // A coarse clock gives two changes the same time, so each change has another size or name.
        let changes: [fn(&Path) -> io::Result<()>; 5] = [
            |dir| fs::write(dir.join("e/x"), "longer"),
            |dir| fs::write(dir.join("e/z"), "new"),
            |dir| fs::rename(dir.join("y"), dir.join("w")),
            |dir| fs::remove_file(dir.join("w")),
            |dir| fs::create_dir(dir.join("e/empty")),
        ];
        let mut last = first;
        for change in changes {
            change(&root.join("moved")).expect("ours");
            let digest = now("moved");
            assert_ne!(digest, last);
            last = digest;
        }
    }
}
