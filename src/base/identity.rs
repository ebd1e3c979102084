//! Identity of a directory, independent of its path.
//!
//! Inode and birth time identify a directory across renames, and no program can choose either. Device numbers change at a reboot (btrfs,
//! NFS), so the device is compared only on file systems without birth times.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Identity of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryId {
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970, if the file system has birth times.
    born: Option<u128>,
}

impl DirectoryId {
    /// Returns the identity of the directory at a path.
    pub fn of(path: &Path) -> io::Result<DirectoryId> {
        Ok(DirectoryId::from(&fs::metadata(path)?))
    }

    /// Returns true if both are the same directory.
    pub fn is_same(&self, other: &DirectoryId) -> bool {
        self.inode == other.inode && self.born == other.born && (self.born.is_some() || self.device == other.device)
    }

    /// Returns true if no other directory can get this identity later. Without a birth time, inode numbers are reused.
    pub fn is_lasting(&self) -> bool {
        self.born.is_some()
    }

    /// Returns a file name for this directory, which never changes.
    pub fn key(&self) -> String {
        match self.born {
            Some(born) => format!("{:x}-{born:x}", self.inode),
            None => format!("{:x}-on-{:x}", self.inode, self.device),
        }
    }

    /// Formats it for a record.
    pub fn text(&self) -> String {
        let born = self.born.map_or_else(|| "-".to_owned(), |born| born.to_string());
        format!("{}:{}:{born}", self.device, self.inode)
    }

    /// Parses the output of [`text`](DirectoryId::text).
    pub fn parse(text: &str) -> Option<DirectoryId> {
        let mut parts = text.split(':');
        let (device, inode, born) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
        let born = if born == "-" { None } else { Some(born.parse().ok()?) };
        parts.next().is_none().then_some(DirectoryId { device, inode, born })
    }
}

impl From<&Metadata> for DirectoryId {
    fn from(found: &Metadata) -> DirectoryId {
        let born = found.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok()).map(|born| born.as_nanos());
        DirectoryId { device: found.dev(), inode: found.ino(), born }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_same_after_a_rename_and_another_one_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("a");
        fs::create_dir(&path).expect("made");
        let before = DirectoryId::of(&path).expect("there");
        fs::rename(&path, place.path().join("b")).expect("moved");
        fs::create_dir(&path).expect("made");
        let moved = DirectoryId::of(&place.path().join("b")).expect("there");
        assert!(moved.is_same(&before) && !DirectoryId::of(&path).expect("there").is_same(&before));
        assert_eq!(DirectoryId::parse(&before.text()), Some(before));
    }

    #[test]
    fn a_device_number_counts_only_without_a_time_of_birth() {
        let of = |text: &str| DirectoryId::parse(text).expect("an identity");
        for (one, other, same) in [("1:5:9", "2:5:9", true), ("1:5:9", "1:5:8", false), ("1:5:-", "2:5:-", false), ("1:5:-", "1:5:-", true)]
        {
            assert_eq!(of(one).is_same(&of(other)), same, "{one} {other}");
            assert_eq!(of(one).key() == of(other).key(), same, "{one} {other}");
        }
        assert_eq!(["", "1:2", "1:2:x", "1:2:3:4"].map(DirectoryId::parse), [None; 4]);
    }
}
