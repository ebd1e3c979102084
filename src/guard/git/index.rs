//! The index (staging area): parsed completely, checked entry by entry, and written without extensions, which are either caches that git
//! rebuilds or references to other files.

use std::collections::BTreeMap;

use super::oid::{Format, Oid};

/// Maximum size of an index: two million files.
pub const MAX_INDEX_BYTES: u64 = 512 << 20;
/// Mode of a submodule entry.
const GITLINK: u32 = 0o160000;
/// Bytes of an entry before its name: times, ids, mode, size.
const STAT_BYTES: usize = 40;
/// Flag of an entry with extended flags.
const EXTENDED: u16 = 0x4000;
/// Mask of the name length in the flags.
const LENGTH_MASK: u16 = 0x0fff;
/// Maximum length of a path, as in the kernel.
const MAX_PATH_BYTES: usize = 4096;

/// Reason why an index is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index {0}")]
pub struct Error(pub &'static str);

/// One file in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    stat: [u8; STAT_BYTES],
    oid: Oid,
    flags: u16,
    more_flags: u16,
    /// Path in the working tree.
    pub path: Vec<u8>,
}

/// A parsed index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Entries in git's order.
    pub entries: Vec<Entry>,
}

impl Entry {
    /// Returns the commit of a submodule entry.
    pub fn gitlink(&self) -> Option<Oid> {
        (self.mode() == GITLINK).then_some(self.oid)
    }

    /// Returns the mode and the object.
    pub fn content(&self) -> (u32, Oid) {
        (self.mode(), self.oid)
    }

    fn mode(&self) -> u32 {
        self.stat.get(24..28).and_then(|mode| mode.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    fn stage(&self) -> u16 {
        self.flags >> 12 & 3
    }
}

impl Index {
    /// Parses an index.
    pub fn parse(bytes: &[u8], format: Format) -> Result<Index, Error> {
        let hash = format.bytes();
        let body_len = bytes.len().checked_sub(hash).ok_or(Error("is too short"))?;
        let (body, sum) = bytes.split_at(body_len);
        // With `index.skipHash`, git writes zeros.
        if sum.iter().any(|byte| *byte != 0) {
            let mut hasher = format.hasher();
            hasher.update(body);
            if hasher.finish().is_none_or(|oid| oid.as_bytes() != sum) {
                return Err(Error("has a wrong checksum"));
            }
        }
        Index::parse_body(body, format)
    }

    /// Parses the host's own index without verifying its checksum: git does that, and it takes longer than everything else.
    pub fn parse_own(bytes: &[u8], format: Format) -> Result<Index, Error> {
        let body_len = bytes.len().checked_sub(format.bytes()).ok_or(Error("is too short"))?;
        Index::parse_body(&bytes[..body_len], format)
    }

    fn parse_body(mut left: &[u8], format: Format) -> Result<Index, Error> {
        let hash = format.bytes();
        if take(&mut left, 4)? != b"DIRC" {
            return Err(Error("has no signature"));
        }
        let version = number(&mut left)?;
        if !(2..=4).contains(&version) {
            return Err(Error("is of an unknown version"));
        }
        let count = number(&mut left)? as usize;
        if count > left.len() / (STAT_BYTES + hash) {
            return Err(Error("has more entries than bytes"));
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        for _ in 0..count {
            let before = entries.last().map_or(&[][..], |entry| &entry.path);
            let entry = read_entry(&mut left, version, format, before)?;
            check_path(&entry.path)?;
            if !matches!(entry.mode(), 0o100644 | 0o100755 | 0o120000 | GITLINK) {
                return Err(Error("has an entry of an unknown type"));
            }
            if entries.last().is_some_and(|last| (&last.path, last.stage()) >= (&entry.path, entry.stage())) {
                return Err(Error("is not in order"));
            }
            entries.push(entry);
        }
        check_extensions(left)?;
        Ok(Index { entries })
    }

    /// Serializes the entries, without extensions.
    pub fn to_bytes(&self, format: Format) -> Option<Vec<u8>> {
        let version: u32 = if self.entries.iter().any(|entry| entry.more_flags != 0) { 3 } else { 2 };
        let mut bytes = b"DIRC".to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend(u32::try_from(self.entries.len()).ok()?.to_be_bytes());
        for entry in &self.entries {
            let begin = bytes.len();
            bytes.extend(entry.stat);
            bytes.extend(entry.oid.as_bytes());
            let length = u16::try_from(entry.path.len()).unwrap_or(LENGTH_MASK).min(LENGTH_MASK);
            let extended = if entry.more_flags != 0 { EXTENDED } else { 0 };
            bytes.extend((entry.flags & !LENGTH_MASK & !EXTENDED | extended | length).to_be_bytes());
            if extended != 0 {
                bytes.extend(entry.more_flags.to_be_bytes());
            }
            bytes.extend(&entry.path);
            let padded = (bytes.len() - begin + 8) & !7;
            bytes.resize(begin + padded, 0);
        }
        let mut hasher = format.hasher();
        hasher.update(&bytes);
        bytes.extend(hasher.finish()?.as_bytes());
        Some(bytes)
    }

    /// Returns the paths of submodules.
    pub fn gitlinks(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().filter(|entry| entry.gitlink().is_some()).map(|entry| entry.path.as_slice())
    }

    /// Removes submodules that `known` does not have, and returns their paths; an entry of `known` at such a path replaces it.
    pub fn hold_back_gitlinks(&mut self, known: &Index) -> Vec<Vec<u8>> {
        let old: BTreeMap<&[u8], &Entry> = known.entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
        let is_new = |entry: &Entry| entry.gitlink().is_some() && old.get(entry.path.as_slice()).is_none_or(|old| old.gitlink().is_none());
        let mut held: Vec<Vec<u8>> = self.entries.iter().filter(|entry| is_new(entry)).map(|entry| entry.path.clone()).collect();
        held.dedup();
        let entries = std::mem::take(&mut self.entries);
        for entry in entries {
            if !is_new(&entry) {
                self.entries.push(entry);
            }
        }
        held
    }
}

fn read_entry(left: &mut &[u8], version: u32, format: Format, before: &[u8]) -> Result<Entry, Error> {
    let whole = left.len();
    let stat = take(left, STAT_BYTES)?.try_into().map_err(|_| Error("is cut off"))?;
    let oid = format.raw(take(left, format.bytes())?).ok_or(Error("is cut off"))?;
    let flags = short(left)?;
    let more_flags = match (flags & EXTENDED != 0, version) {
        (false, _) => 0,
        (true, 3..) => short(left)?,
        (true, _) => return Err(Error("has flags that its version does not support")),
    };
    // Only skip-worktree and intent-to-add are known; the rest is reserved.
    if more_flags & !0x6000 != 0 {
        return Err(Error("has unknown flags"));
    }
    let end = |left: &[u8]| left.iter().take(MAX_PATH_BYTES + 1).position(|byte| *byte == 0).ok_or(Error("has an unterminated path"));
    let path = if version == 4 {
        let strip = varint(left)?;
        let kept = before.len().checked_sub(strip).ok_or(Error("has a path with an invalid prefix length"))?;
        let len = end(left)?;
        let path = [&before[..kept], take(left, len)?].concat();
        take(left, 1)?;
        path
    } else {
        let len = end(left)?;
        let path = take(left, len)?.to_vec();
        // Padding: at least one zero, up to a multiple of eight.
        let used = whole - left.len();
        take(left, ((used + 8) & !7) - used)?;
        path
    };
    Ok(Entry { stat, oid, flags, more_flags, path })
}

/// Checks that a path stays in the working tree and outside of repositories.
fn check_path(path: &[u8]) -> Result<(), Error> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Err(Error("has an empty or too long path"));
    }
    let is_wrong = |part: &[u8]| {
        // Names that other file systems treat as `.git` count too.
        let lower = part.to_ascii_lowercase();
        matches!(part, b"" | b"." | b"..") || lower == b".git" || lower == b"git~1" || lower.starts_with(b".git::") || is_hidden_git(part)
    };
    if path.split(|byte| *byte == b'/').any(is_wrong) { Err(Error("has a path out of the working tree")) } else { Ok(()) }
}

/// True if a name is `.git` on a file system that ignores some characters (HFS+) or trailing ones (NTFS).
fn is_hidden_git(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let ignored =
        |letter: &char| matches!(letter, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let plain: String = text.chars().filter(|letter| !ignored(letter)).collect();
    plain.trim_end_matches([' ', '.']).eq_ignore_ascii_case(".git")
}

/// Extensions with a capital first letter are optional. All required ones are refused: a split index refers to another file, a sparse index
/// to directories.
fn check_extensions(mut left: &[u8]) -> Result<(), Error> {
    while !left.is_empty() {
        let name = take(&mut left, 4)?;
        if !name[0].is_ascii_uppercase() {
            return Err(Error("is split or sparse, which silo does not import"));
        }
        let len = number(&mut left)? as usize;
        take(&mut left, len)?;
    }
    Ok(())
}

fn take<'a>(left: &mut &'a [u8], len: usize) -> Result<&'a [u8], Error> {
    let (taken, rest) = left.split_at_checked(len).ok_or(Error("is cut off"))?;
    *left = rest;
    Ok(taken)
}

fn number(left: &mut &[u8]) -> Result<u32, Error> {
    take(left, 4)?.try_into().map(u32::from_be_bytes).map_err(|_| Error("is cut off"))
}

fn short(left: &mut &[u8]) -> Result<u16, Error> {
    take(left, 2)?.try_into().map(u16::from_be_bytes).map_err(|_| Error("is cut off"))
}

/// A number of variable length, as for offsets in packs.
fn varint(left: &mut &[u8]) -> Result<usize, Error> {
    let mut value: usize = 0;
    for round in 0.. {
        let byte = take(left, 1)?[0];
        value = value << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        value += 1;
        if round == 3 {
            break;
        }
    }
    Err(Error("has a number that is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, mode: u32, more_flags: u16) -> Entry {
        let mut stat = [7; STAT_BYTES];
        stat[24..28].copy_from_slice(&mode.to_be_bytes());
        let oid = Format::Sha1.raw(&[9; 20]).expect("20 bytes");
        let flags = path.len().min(0xfff) as u16 | if more_flags != 0 { EXTENDED } else { 0 };
        Entry { stat, oid, flags, more_flags, path: path.as_bytes().to_vec() }
    }

    fn index(paths: &[(&str, u32)]) -> Index {
        Index { entries: paths.iter().map(|(path, mode)| entry(path, *mode, 0)).collect() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut whole = index(&[("a", 0o100644), ("a/b", 0o100755), ("link", 0o120000), ("sub", GITLINK)]);
        whole.entries.push(entry("zz/skipped", 0o100644, 0x4000));
        let bytes = whole.to_bytes(Format::Sha1).expect("no attack");
        assert_eq!(Index::parse(&bytes, Format::Sha1), Ok(whole.clone()));
        assert_eq!(whole.gitlinks().collect::<Vec<_>>(), [b"sub"]);
        // Any changed byte and any changed length is detected.
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(Index::parse(&wrong, Format::Sha1).is_err(), "{at}");
            assert!(Index::parse(&bytes[..at], Format::Sha1).is_err(), "{at}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/a", "a//b", "../a", "a/../b", ".", ".git/config", "a/.GIT/x", "git~1/x", "a/.git", ".g\u{200c}it/x", ".git. /x"]
        {
            let bytes = index(&[(path, 0o100644)]).to_bytes(Format::Sha1).expect("no attack");
            assert!(Index::parse(&bytes, Format::Sha1).is_err(), "{path}");
        }
        for (wrong, mode) in [("a", 0o040000), ("a", 0), ("a", 0o100600)] {
            let bytes = index(&[(wrong, mode)]).to_bytes(Format::Sha1).expect("no attack");
            assert!(Index::parse(&bytes, Format::Sha1).is_err(), "{mode:o}");
        }
        for twice in [&[("b", 0o100644), ("a", 0o100644)][..], &[("a", 0o100644), ("a", 0o100644)]] {
            assert!(Index::parse(&index(twice).to_bytes(Format::Sha1).expect("no attack"), Format::Sha1).is_err());
        }
    }

    #[test]
    fn new_submodules_are_held_back() {
        let known = index(&[("old", GITLINK), ("turned", 0o100644)]);
        let mut new = index(&[("docs", GITLINK), ("file", 0o100644), ("old", GITLINK), ("turned", GITLINK)]);
        assert_eq!(new.hold_back_gitlinks(&known), [&b"docs"[..], b"turned"]);
        assert_eq!(new, index(&[("file", 0o100644), ("old", GITLINK)]));
    }

    /// Random bytes with a correct checksum: no input makes the parser panic or allocate more than its input.
    #[test]
    fn no_bytes_break_the_reader() {
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u8
        };
        let good = index(&[("a", 0o100644), ("dir/file", 0o100755), ("sub", GITLINK)]).to_bytes(Format::Sha1).expect("no attack");
        for _ in 0..3000 {
            let mut bytes = good[..good.len() - 20].to_vec();
            bytes[7] = 2 + next() % 3;
            for _ in 0..next() % 6 {
                let at = usize::from(next()) % bytes.len();
                bytes[at] = next();
            }
            bytes.truncate(bytes.len() - usize::from(next() % 40));
            bytes.extend([0; 20]);
            if let Ok(index) = Index::parse(&bytes, Format::Sha1) {
                let again = index.to_bytes(Format::Sha1).expect("no attack");
                assert!(Index::parse(&again, Format::Sha1).is_ok());
            }
        }
    }
}
