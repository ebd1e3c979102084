//! The index: the canonical list of a layer's entries, and its text.
//!
//! ```text
//! silo-index 1
//! d <mode> <uid> <gid> <path> [<xattr>=<value>]...
//! o <mode> <uid> <gid> <path> [<xattr>=<value>]...          an opaque directory
//! f <mode> <uid> <gid> <mtime> <size> <sha-256> <path> [<xattr>=<value>]...
//! l <uid> <gid> <path> <target>
//! h <path> <to>
//! w <path>
//! ```
//!
//! Paths, targets, names and values are percent-escaped: every byte but printable ASCII, and `%` and `=`. The reader accepts exactly the
//! writer's output, so equal lists have equal text, and a digest of the text identifies the list.

use crate::digest::Digest;
use crate::entry::{Entry, MAX_ENTRIES, Meta, Node};
use crate::normal;
use crate::path::LayerPath;
use std::collections::BTreeMap;

const HEADER: &[u8] = b"silo-index 1\n";

/// A checked, sorted list of entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Entry>,
}

/// Reason why a text or list is not an index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The first line is not the known header.
    #[error("index starts with {found:?}, not with \"silo-index 1\"")]
    Version {
        /// The first line, shortened.
        found: String,
    },
    /// A line differs from its canonical form.
    #[error("index line {line}: {why}")]
    Line {
        /// The number of the line; the first is 1.
        line: usize,
        /// The fault.
        why: &'static str,
    },
    /// An entry contradicts the others.
    #[error("index entry {path}: {why}")]
    Entry {
        /// The entry.
        path: LayerPath,
        /// The fault.
        why: &'static str,
    },
    /// More entries than [`MAX_ENTRIES`].
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
}

impl Index {
    /// Checks a list of entries, which must be normalised and sorted.
    pub fn new(entries: Vec<Entry>) -> Result<Self, IndexError> {
        if entries.len() > MAX_ENTRIES {
            return Err(IndexError::TooMany);
        }
        let index = Index { entries };
        index.check()?;
        Ok(index)
    }

    /// Returns the entries in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry at `path`.
    pub fn get(&self, path: &LayerPath) -> Option<&Entry> {
        self.position(path).map(|at| &self.entries[at])
    }

    /// Returns the number of the entry at `path`.
    pub fn position(&self, path: &LayerPath) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()
    }

    /// Returns the entry that has the bytes of `path`: itself, or the target of the hard link.
    pub fn resolve(&self, path: &LayerPath) -> Option<&Entry> {
        match self.get(path)? {
            Entry { node: Node::Hardlink { to }, .. } => self.get(to),
            entry => Some(entry),
        }
    }

    /// Returns the entries below `dir`, at any depth.
    pub fn below(&self, dir: &LayerPath) -> &[Entry] {
        let start = self.entries.partition_point(|entry| entry.path <= *dir);
        let len = self.entries[start..].partition_point(|entry| entry.path.is_below(dir));
        &self.entries[start..start + len]
    }

    /// Returns the sum of all file sizes.
    pub fn bytes(&self) -> u64 {
        let size = |entry: &Entry| match entry.node {
            Node::File { size, .. } => size,
            Node::Dir { .. } | Node::Symlink { .. } | Node::Hardlink { .. } | Node::Whiteout => 0,
        };
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(size(entry)))
    }

    /// Returns the canonical text.
    pub fn to_text(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER.len() + self.entries.len() * 160);
        out.extend_from_slice(HEADER);
        for entry in &self.entries {
            write_line(&mut out, entry);
        }
        out
    }

    /// Parses a canonical text.
    pub fn parse(text: &[u8]) -> Result<Self, IndexError> {
        let Some(body) = text.strip_prefix(HEADER) else {
            let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
            return Err(IndexError::Version { found: String::from_utf8_lossy(&first[..first.len().min(40)]).into_owned() });
        };
        let mut entries: Vec<Entry> = Vec::with_capacity(body.len() / 120);
        let mut again = Vec::new();
        for (line, raw) in body.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let bad = |why| IndexError::Line { line: line + 2, why };
            let text = raw.strip_suffix(b"\n").ok_or_else(|| bad("is cut short"))?;
            let mut entry = read_line(text).map_err(bad)?;
            again.clear();
            write_line(&mut again, &entry);
            if again != raw {
                return Err(bad("is not in canonical form"));
            }
            if let Node::Hardlink { to } = &entry.node {
                // A hard link has its file's metadata; the file is an earlier entry.
                let found = entries.binary_search_by(|other| other.path.cmp(to));
                let at = found.map_err(|_| bad("is a hard link to a path that is not an earlier entry"))?;
                entry.meta = entries[at].meta.clone();
            }
            if entries.len() == MAX_ENTRIES {
                return Err(IndexError::TooMany);
            }
            entries.push(entry);
        }
        Index::new(entries)
    }

    fn check(&self) -> Result<(), IndexError> {
        // The last entry that is not a directory: an entry below it would follow directly.
        let mut leaf: Option<&LayerPath> = None;
        for (at, entry) in self.entries.iter().enumerate() {
            let bad = |why| IndexError::Entry { path: entry.path.clone(), why };
            if at > 0 && self.entries[at - 1].path >= entry.path {
                return Err(bad("is a duplicate or out of order"));
            }
            if leaf.is_some_and(|leaf| entry.path.is_below(leaf)) {
                return Err(bad("is below a path that is not a directory"));
            }
            if normal::meta(entry.node.kind(), &entry.meta) != entry.meta {
                return Err(bad("has metadata that is not normalised"));
            }
            match &entry.node {
                Node::Dir { .. } => {}
                Node::Symlink { target } => {
                    leaf = Some(&entry.path);
                    if target.is_empty() || target.contains(&0) || target.len() > 4095 {
                        return Err(bad("has a link target that is empty, too long or holds a NUL byte"));
                    }
                }
                Node::Hardlink { to } => {
                    leaf = Some(&entry.path);
                    self.check_link(at, to).map_err(bad)?;
                }
                Node::File { .. } | Node::Whiteout => leaf = Some(&entry.path),
            }
        }
        Ok(())
    }

    fn check_link(&self, at: usize, to: &LayerPath) -> Result<(), &'static str> {
        let above = &self.entries[..at];
        let found = above.binary_search_by(|entry| entry.path.cmp(to));
        let file = &above[found.map_err(|_| "is a hard link to a path that is not an earlier entry")?];
        match file.node {
            Node::File { .. } if file.meta == self.entries[at].meta => Ok(()),
            Node::File { .. } => Err("differs in metadata from the file it is a hard link to"),
            _ => Err("is a hard link to something that is not a file"),
        }
    }
}

fn write_line(out: &mut Vec<u8>, entry: &Entry) {
    let Entry { path, meta, node } = entry;
    match node {
        Node::Dir { opaque } => {
            out.push(if *opaque { b'o' } else { b'd' });
            write_owner(out, meta);
            field(out, path.as_bytes());
            write_xattrs(out, meta);
        }
        Node::File { size, digest } => {
            out.push(b'f');
            write_owner(out, meta);
            number(out, meta.mtime.unsigned_abs());
            number(out, *size);
            out.push(b' ');
            out.extend_from_slice(&digest.hex());
            field(out, path.as_bytes());
            write_xattrs(out, meta);
        }
        Node::Symlink { target } => {
            out.push(b'l');
            number(out, u64::from(meta.uid));
            number(out, u64::from(meta.gid));
            field(out, path.as_bytes());
            field(out, target);
        }
        Node::Hardlink { to } => {
            out.push(b'h');
            field(out, path.as_bytes());
            field(out, to.as_bytes());
        }
        Node::Whiteout => {
            out.push(b'w');
            field(out, path.as_bytes());
        }
    }
    out.push(b'\n');
}

fn write_owner(out: &mut Vec<u8>, meta: &Meta) {
    out.push(b' ');
    for shift in [9, 6, 3, 0] {
        out.push(b'0' + (meta.mode >> shift & 7) as u8);
    }
    number(out, u64::from(meta.uid));
    number(out, u64::from(meta.gid));
}

fn write_xattrs(out: &mut Vec<u8>, meta: &Meta) {
    for (name, value) in &meta.xattrs {
        field(out, name);
        out.push(b'=');
        escape(out, value);
    }
}

fn number(out: &mut Vec<u8>, value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.push(b' ');
    out.extend_from_slice(&digits[at..]);
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b' ');
    escape(out, bytes);
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%' && byte != b'='
}

fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for run in bytes.chunk_by(|a, b| is_plain(*a) == is_plain(*b)) {
        if is_plain(run[0]) {
            out.extend_from_slice(run);
            continue;
        }
        for byte in run {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

fn read_line(line: &[u8]) -> Result<Entry, &'static str> {
    let mut fields = Fields(line.split(|byte| *byte == b' '));
    let kind = fields.next()?;
    let entry = match kind {
        b"d" | b"o" => {
            let mut meta = fields.owner()?;
            meta.mtime = normal::CONSTANT_MTIME_SECS;
            let path = fields.path()?;
            meta.xattrs = fields.xattrs()?;
            Entry { path, meta, node: Node::Dir { opaque: kind == b"o" } }
        }
        b"f" => {
            let mut meta = fields.owner()?;
            meta.mtime = fields.number::<i64>()?;
            let size = fields.number()?;
            let digest = Digest::parse_bytes(fields.next()?).ok_or("has a malformed digest")?;
            let path = fields.path()?;
            meta.xattrs = fields.xattrs()?;
            Entry { path, meta, node: Node::File { size, digest } }
        }
        b"l" => {
            let meta = Meta {
                mode: 0o777,
                uid: fields.number()?,
                gid: fields.number()?,
                mtime: normal::CONSTANT_MTIME_SECS,
                xattrs: BTreeMap::new(),
            };
            Entry { meta, path: fields.path()?, node: Node::Symlink { target: fields.bytes()? } }
        }
        b"h" => Entry { path: fields.path()?, meta: Meta::default(), node: Node::Hardlink { to: fields.path()? } },
        b"w" => Entry { path: fields.path()?, meta: normal::whiteout(), node: Node::Whiteout },
        _ => return Err("has an unknown type"),
    };
    match fields.next() {
        Err(_) => Ok(entry),
        Ok(_) => Err("has too many fields"),
    }
}

/// The fields of a line, separated by single spaces.
struct Fields<'a, F: FnMut(&u8) -> bool>(std::slice::Split<'a, u8, F>);

impl<'a, F: FnMut(&u8) -> bool> Fields<'a, F> {
    fn next(&mut self) -> Result<&'a [u8], &'static str> {
        self.0.next().ok_or("has too few fields")
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, &'static str> {
        let text = std::str::from_utf8(self.next()?).map_err(|_| "has a malformed number")?;
        text.parse().map_err(|_| "has a malformed number")
    }

    fn bytes(&mut self) -> Result<Vec<u8>, &'static str> {
        unescape(self.next()?)
    }

    fn path(&mut self) -> Result<LayerPath, &'static str> {
        LayerPath::from_vec(self.bytes()?).map_err(|error| error.why)
    }

    fn owner(&mut self) -> Result<Meta, &'static str> {
        let mode = std::str::from_utf8(self.next()?).map_err(|_| "has a malformed mode")?;
        Ok(Meta {
            mode: u32::from_str_radix(mode, 8).map_err(|_| "has a malformed mode")?,
            uid: self.number()?,
            gid: self.number()?,
            ..Meta::default()
        })
    }

    fn xattrs(&mut self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, &'static str> {
        let mut xattrs = BTreeMap::new();
        for field in self.0.by_ref() {
            let mut halves = field.splitn(2, |byte| *byte == b'=');
            let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
                return Err("has a malformed attribute");
            };
            xattrs.insert(unescape(name)?, unescape(value)?);
        }
        Ok(xattrs)
    }
}

fn unescape(field: &[u8]) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "has a malformed escape";
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        out.extend_from_slice(&rest[..at]);
        let pair = rest.get(at + 1..at + 3).ok_or(BAD)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BAD);
        out.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &str) -> Vec<u8> {
        [HEADER, lines.as_bytes()].concat()
    }

    fn hex() -> String {
        Digest::of(b"").to_string()
    }

    #[test]
    fn reads_what_it_wrote() {
        let h = hex();
        let all = text(&format!(
            "d 0755 0 0 a\n\
             f 4755 5 7 12 0 {h} a/%01%20%25%3D%FF security.capability=%01%00%00%02%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00%00 user.k=v\n\
             h a/h a/%01%20%25%3D%FF\n\
             l 0 3 a/l ../x%20y\n\
             o 0700 0 0 b\n\
             w c\n"
        ));
        let index = Index::parse(&all).unwrap();
        assert_eq!(index.entries().len(), 6);
        assert_eq!(index.to_text(), all);
        assert_eq!(Index::new(index.entries().to_vec()).unwrap(), index);
        let link = LayerPath::parse(b"a/h").unwrap();
        assert_eq!(index.resolve(&link).unwrap().path.as_bytes(), b"a/\x01 %=\xff");
        assert_eq!(index.get(&link).unwrap().meta.mode, 0o4755);
        assert_eq!(index.below(&LayerPath::parse(b"a").unwrap()).len(), 3);
    }

    #[test]
    fn refuses_what_it_would_not_write() {
        let h = hex();
        let table = [
            ("d 0755 0 0 b\nd 0755 0 0 a\n".to_string(), "out of order"),
            ("d 0755 0 0 a\nd 0755 0 0 a\n".into(), "duplicate"),
            ("d 0755 0 0 a".into(), "cut short"),
            ("d 755 0 0 a\n".into(), "canonical"),
            ("d 0755 00 0 a\n".into(), "canonical"),
            ("d 0755 +0 0 a\n".into(), "canonical"),
            ("d 0755 0 0 %61\n".into(), "canonical"),
            ("d 0755 0 0 %c3\n".into(), "canonical"),
            ("d 0755 0 0 %G3\n".into(), "escape"),
            ("d 0755 0 0 %+3\n".into(), "escape"),
            ("d 0755 0 0 %C\n".into(), "escape"),
            ("d 17777 0 0 a\n".into(), "canonical"),
            ("d 0755 0 0 ../a\n".into(), ".."),
            ("d 0755 0 0\n".into(), "too few"),
            ("d 0755 0 0 a junk\n".into(), "attribute"),
            ("d 0755 0 0 a user.silo.owner=x\n".into(), "not normal"),
            ("d 0755 0 0 a user.b=1 user.a=1\n".into(), "canonical"),
            ("w a b\n".into(), "too many"),
            ("x a\n".into(), "unknown type"),
            ("\n".into(), "unknown type"),
            (format!("f 0644 0 0 -1 0 {h} a\n"), "canonical"),
            (format!("f 0644 0 0 99999999999 0 {h} a\n"), "not normal"),
            (format!("f 0644 0 0 1 0 {} a\n", h.to_uppercase()), "digest"),
            (format!("f 0644 0 0 1 0 {h} a\nd 0755 0 0 a/b\n"), "not a directory"),
            ("l 0 0 a b\nd 0755 0 0 a/b\n".into(), "not a directory"),
            ("w a\nw a/b\n".into(), "not a directory"),
            ("l 0 0 a \n".into(), "link target"),
            ("h a b\n".into(), "not an earlier entry"),
            (format!("h a b\nf 0644 0 0 1 0 {h} b\n"), "not an earlier entry"),
            ("l 0 0 a x\nh b a\n".into(), "not a file"),
            (format!("f 0644 0 0 1 0 {h} a\nh b a\nh c b\n"), "not a file"),
        ];
        for (lines, why) in table {
            let error = Index::parse(&text(&lines)).unwrap_err().to_string();
            assert!(error.contains(why), "{lines:?}: {error}");
        }
        for old in ["", "silo-index 2\n", "silo-index 1", "\u{1b}[31m"] {
            let error = Index::parse(old.as_bytes()).unwrap_err();
            assert!(matches!(error, IndexError::Version { .. }), "{old:?}");
        }
    }
}
