//! Marks: the identity and state of one file of the project, to detect every later change of it without reading its content.

use rustix::fs::Stat;

use silo_guard::git::dir_fd::{Kind, mode_of};

/// State of one file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A known state.
    Known(Known),
    /// The file changed between the start of the review and the moment of its first record, so its state at the start is unknown.
    Unknown,
}

/// A known state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Type of the file.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes; 0 for a directory.
    pub size: u64,
    /// Nanoseconds since 1970 of the last change of content or metadata; 0 for a directory, whose time changes with its entries.
    pub changed: i128,
}

impl Known {
    /// Returns the state of a file.
    #[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
    pub fn of(stat: &Stat) -> Known {
        let kind = Kind::of(stat);
        let is_dir = kind == Kind::Dir;
        Known {
            kind,
            mode: mode_of(stat) & 0o7777,
            inode: stat.st_ino as u64,
            size: if is_dir { 0 } else { stat.st_size as u64 },
            changed: if is_dir { 0 } else { changed(stat) },
        }
    }
}

/// Returns the time of the last change of content or metadata, in nanoseconds. No program can choose it.
#[allow(clippy::unnecessary_cast, reason = "the fields have other widths on other systems")]
pub fn changed(stat: &Stat) -> i128 {
    stat.st_ctime as i128 * 1_000_000_000 + stat.st_ctime_nsec as i128
}

impl Mark {
    /// Returns the mark of a file in a review that began at `since`.
    pub fn of(stat: &Stat, since: i128) -> Mark {
        let known = Known::of(stat);
        if known.kind != Kind::Dir && known.changed >= since { Mark::Unknown } else { Mark::Known(known) }
    }

    /// Formats it for a record.
    pub fn text(&self) -> String {
        let Mark::Known(known) = self else { return "?".to_owned() };
        let kind = LETTERS.iter().find(|(kind, _)| *kind == known.kind).map_or('o', |(_, letter)| *letter);
        format!("{kind} {:o} {} {} {}", known.mode, known.inode, known.size, known.changed)
    }

    /// Parses the output of [`text`](Mark::text).
    pub fn parse(text: &str) -> Option<Mark> {
        if text == "?" {
            return Some(Mark::Unknown);
        }
        let mut parts = text.split(' ');
        let letter = parts.next()?;
        let kind = LETTERS.iter().find(|(_, known)| letter.len() == 1 && letter.starts_with(*known)).map(|(kind, _)| *kind)?;
        let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
        let (inode, size, changed) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some(Mark::Known(Known { kind, mode, inode, size, changed }))
    }
}

const LETTERS: [(Kind, char); 6] =
    [(Kind::File, 'f'), (Kind::Dir, 'd'), (Kind::Link, 'l'), (Kind::Whiteout, 'w'), (Kind::Socket, 's'), (Kind::Other, 'o')];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_its_value_in_a_record() {
        for (kind, _) in LETTERS {
            let mark = Mark::Known(Known { kind, mode: 0o755, inode: u64::MAX, size: 5, changed: -1 });
            assert_eq!(Mark::parse(&mark.text()), Some(mark));
        }
        assert_eq!(Mark::parse("?"), Some(Mark::Unknown));
        for text in ["", "f", "f 1 2 3", "f 9 2 3 4", "x 1 2 3 4", "f 1 2 3 4 5", "ff 1 2 3 4", "f 1 -2 3 4"] {
            assert_eq!(Mark::parse(text), None, "{text}");
        }
    }
}
