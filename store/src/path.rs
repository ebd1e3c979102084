//! Paths inside a layer: relative, normalised, limited in length; any bytes but NUL.
//!
//! Paths are ordered by component, each compared as bytes. So a parent sorts directly before everything below it (`a`, `a/b`, `a.b`), which
//! is the order of the canonical tar and of the index. Comparing whole strings differs: there `a.b` precedes `a/b`.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The longest path, in bytes; Linux cannot open a longer one in one system call.
pub const MAX_PATH_BYTES: usize = 4096;
/// The longest component, in bytes: the limit of all supported file systems.
pub const MAX_COMPONENT_BYTES: usize = 255;
/// The deepest nesting. Arbitrary: real trees stay below 60. A stage keeps one open directory for each level, so this also limits its file
/// descriptors.
pub const MAX_DEPTH: usize = 256;

/// A checked path inside a layer. Never empty: the root of a layer has no entry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LayerPath(Vec<u8>);

/// A path that layers do not allow.
#[derive(Debug, thiserror::Error)]
#[error("path {} {why}", EscapedBytes(path))]
pub struct LayerPathError {
    /// The rejected bytes.
    pub path: Vec<u8>,
    /// The fault.
    pub why: &'static str,
}

impl LayerPath {
    /// Checks `bytes` and copies them.
    ///
    /// Names that begin with `.wh.` are rejected too: OCI layers use them as whiteouts, so a reader of such a layer must translate them
    /// first.
    pub fn parse(bytes: &[u8]) -> Result<Self, LayerPathError> {
        LayerPath::from_vec(bytes.to_vec())
    }

    /// Checks `bytes` and keeps them.
    pub(crate) fn from_vec(mut bytes: Vec<u8>) -> Result<Self, LayerPathError> {
        match fault(&bytes) {
            None => Ok(LayerPath(bytes)),
            Some(why) => {
                bytes.truncate(MAX_PATH_BYTES);
                Err(LayerPathError { path: bytes, why })
            }
        }
    }

    /// Returns the path as bytes, components separated by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path as a relative host path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns the parent directory, or `None` at the top.
    pub fn parent(&self) -> Option<LayerPath> {
        self.parent_bytes().map(|bytes| LayerPath(bytes.to_vec()))
    }

    /// Returns the last component.
    pub fn name(&self) -> &[u8] {
        match self.slash() {
            Some(at) => &self.0[at + 1..],
            None => &self.0,
        }
    }

    /// Returns true if this path is below `dir` (not `dir` itself).
    pub fn is_below(&self, dir: &LayerPath) -> bool {
        self.0.len() > dir.0.len() && self.0[dir.0.len()] == b'/' && self.0.starts_with(&dir.0)
    }

    /// Returns this path with one more component.
    pub fn join(&self, name: &[u8]) -> Result<LayerPath, LayerPathError> {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        LayerPath::from_vec(bytes)
    }

    pub(crate) fn parent_bytes(&self) -> Option<&[u8]> {
        self.slash().map(|at| &self.0[..at])
    }

    fn slash(&self) -> Option<usize> {
        self.0.iter().rposition(|byte| *byte == b'/')
    }
}

/// Returns the fault of `bytes` as a layer path, if there is one.
fn fault(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("is empty");
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Some("is longer than 4096 bytes");
    }
    if bytes[0] == b'/' {
        return Some("is absolute");
    }
    if bytes.contains(&0) {
        return Some("holds a NUL byte");
    }
    let mut depth = 0;
    for component in bytes.split(|byte| *byte == b'/') {
        depth += 1;
        match component {
            b"" => return Some("has an empty component"),
            b"." | b".." => return Some("has a component '.' or '..'"),
            _ => {}
        }
        if component.len() > MAX_COMPONENT_BYTES {
            return Some("has a component longer than 255 bytes");
        }
        if component.starts_with(b".wh.") {
            return Some("has a component starting with '.wh.', which marks deletions in OCI layers");
        }
    }
    (depth > MAX_DEPTH).then_some("is nested more than 256 deep")
}

/// Compares two paths by their components; the order of index and tar.
pub(crate) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let shared = a.len().min(b.len());
    match (0..shared).find(|i| a[*i] != b[*i]) {
        // A slash ends a component, and the shorter component sorts first. Paths have no NUL, so ranking a slash as NUL gives exactly this
        // order.
        Some(i) => {
            let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
            rank(a[i]).cmp(&rank(b[i]))
        }
        None => a.len().cmp(&b.len()),
    }
}

impl Ord for LayerPath {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for LayerPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EscapedBytes(&self.0).fmt(f)
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerPath({self})")
    }
}

/// Formats bytes for a terminal: control and non-UTF-8 bytes are escaped, so that a hostile name cannot send control sequences.
pub(crate) struct EscapedBytes<'a>(pub(crate) &'a [u8]);

impl fmt::Display for EscapedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_could_leave_the_tree() {
        let long = "a/".repeat(2100) + "b";
        let wide = "x".repeat(256);
        let deep = "d/".repeat(256) + "d";
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a\0b", ".wh.x", "a/.wh..wh..opq", &long, &wide, &deep]
        {
            assert!(LayerPath::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for good in ["a", "a/b", "...", "a/..b", "usr/share/\u{e9}", &"x".repeat(255)] {
            assert!(LayerPath::parse(good.as_bytes()).is_ok(), "{good}");
        }
        let raw = LayerPath::parse(b"a/\xff\n").unwrap();
        assert_eq!(raw.to_string(), "a/\\xff\\n");
        assert_eq!(raw.name(), b"\xff\n");
        assert_eq!(raw.parent().unwrap().as_bytes(), b"a");
    }

    #[test]
    fn parents_sort_right_before_children() {
        let sorted = ["a", "a/b", "a/b/c", "a/b.c", "a/z", "a.b", "a0", "b"];
        let path = |text: &str| LayerPath::parse(text.as_bytes()).unwrap();
        for pair in sorted.windows(2) {
            assert!(path(pair[0]) < path(pair[1]), "{pair:?}");
        }
        assert!(path("a/b").is_below(&path("a")));
        assert!(!path("a.b").is_below(&path("a")));
        assert!(!path("a").is_below(&path("a")));
    }
}
