//! What files take on disk, each counted once however many names it has.
//!
//! Layers and the images composed of them share their files, so a sum over directories says nothing.
//! A ledger is told directories one after another and knows which files it has seen before.

use crate::path_error::{PathError, at, if_present};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What one more directory adds to a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// What those files take that were not seen before, in bytes on disk.
    pub fresh: u64,
    /// The lengths of those files.
    pub apparent: u64,
    /// What those files take whose last name this was: removing all that was added frees it.
    pub freed: u64,
    /// Files, directories and links that were not seen before.
    pub files: u64,
}

/// Files that were seen, by file system and number.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: HashMap<(u64, u64), u64>,
}

impl Ledger {
    /// Counts a path and all below it; what vanishes meanwhile, or is not there, takes nothing.
    pub fn add(&mut self, path: &Path) -> Result<Added, PathError> {
        let mut added = Added::default();
        self.walk(path, &mut added)?;
        Ok(added)
    }

    fn walk(&mut self, path: &Path, added: &mut Added) -> Result<(), PathError> {
        let Some(found) = if_present(fs::symlink_metadata(path).map_err(at("inspect", path)))? else { return Ok(()) };
        // A block is 512 bytes here whatever the file system's own.
        let bytes = found.blocks() * 512;
        let names = if found.is_dir() { 1 } else { found.nlink() };
        let seen = self.seen.entry((found.dev(), found.ino())).or_default();
        *seen += 1;
        if *seen == 1 {
            added.fresh += bytes;
            added.apparent += if found.is_dir() { 0 } else { found.len() };
            added.files += 1;
        }
        if *seen == names {
            added.freed += bytes;
        }
        if !found.is_dir() {
            return Ok(());
        }
        let listing = match fs::read_dir(path) {
            // overlayfs makes a directory that nobody may enter beside each step that is at work, and a step may make others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
            listing => if_present(listing.map_err(at("list", path)))?,
        };
        let Some(listing) = listing else { return Ok(()) };
        for item in listing {
            self.walk(&item.map_err(at("list", path))?.path(), added)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_is_counted_and_not_entered() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(Ledger::default().add(dir.path()).unwrap().files, 2);
    }

    #[test]
    fn a_file_counts_once_and_is_freed_with_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        fs::write(one.join("a"), vec![b'x'; 100_000]).unwrap();
        fs::hard_link(one.join("a"), two.join("a")).unwrap();
        let mut ledger = Ledger::default();
        let first = ledger.add(&one).unwrap();
        let second = ledger.add(&two).unwrap();
        assert!(first.fresh >= 100_000 && first.apparent == 100_000 && first.freed < 100_000, "{first:?}");
        assert!(second.fresh < 100_000 && second.freed >= 100_000 && second.apparent == 0, "{second:?}");
        assert_eq!(ledger.add(&dir.path().join("none")).unwrap(), Added::default());
    }
}
