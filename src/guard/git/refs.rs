//! Refs: names, values, and the packed-refs file. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::oid::{Format, Oid};

/// Maximum size of a loose ref.
pub const MAX_REF_BYTES: u64 = 4096;
/// Maximum size of the packed-refs file.
pub const MAX_PACKED_BYTES: u64 = 256 << 20;
/// Maximum length of a name: a path valid for the kernel, with room for a prefix and `.lock`.
const MAX_NAME_BYTES: usize = 1024;
/// Maximum number of parts of a name.
const MAX_NAME_PARTS: usize = 32;

/// A checked ref name below `refs/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Value of a ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// An object.
    Object(Oid),
    /// Another ref.
    Symbolic(Name),
}

/// All refs of a repository by name.
pub type Refs = BTreeMap<Name, Value>;

impl Name {
    /// Checks a name as git does, and more strictly: one line of text, with the prefix `refs/`, and no part begins with `-`.
    pub fn parse(name: &[u8]) -> Option<Name> {
        let text = std::str::from_utf8(name).ok()?;
        let is_wrong = |letter: char| letter.is_control() || letter == ' ' || "~^:?*[\\".contains(letter);
        let is_wrong_part =
            |part: &str| part.is_empty() || part.starts_with(['.', '-']) || part.ends_with(".lock") || part.ends_with('.') || part == "@";
        let parts = text.split('/');
        let is_name = text.starts_with("refs/")
            && text.len() <= MAX_NAME_BYTES
            && (3..=MAX_NAME_PARTS).contains(&parts.clone().count())
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(is_wrong)
            && !parts.clone().any(is_wrong_part);
        // `refs/stash` is the only name with two parts.
        (is_name || text == "refs/stash").then(|| Name(text.to_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if a sandbox may set it. Excludes refs that substitute objects, and those in which silo keeps imported values.
    pub fn may_come(&self) -> bool {
        !["refs/replace/", "refs/silo/", "refs/bisect/", "refs/rewritten/", "refs/worktree/"].iter().any(|held| self.0.starts_with(held))
    }

    /// Returns the name under which a value is kept in addition to the host's.
    pub fn kept(&self, run: &str) -> Option<Name> {
        Name::parse(format!("refs/silo/{run}/{}", self.0.strip_prefix("refs/")?).as_bytes())
    }
}

/// Parses a loose ref.
pub fn parse(text: &[u8], format: Format) -> Option<Value> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    match text.strip_prefix(b"ref:") {
        Some(name) => Name::parse(name.trim_ascii_start()).map(Value::Symbolic),
        None => format.parse(text).filter(|oid| !oid.is_zero()).map(Value::Object),
    }
}

/// Formats a loose ref.
pub fn text(value: &Value) -> String {
    match value {
        Value::Object(oid) => format!("{oid}\n"),
        Value::Symbolic(name) => format!("ref: {}\n", name.0),
    }
}

/// Parses the packed-refs file; also returns the number of invalid lines.
pub fn parse_packed(bytes: &[u8], format: Format) -> (Refs, usize) {
    let (mut refs, mut wrong) = (Refs::new(), 0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#") && !line.starts_with(b"^")) {
        let found = line.split_at_checked(format.bytes() * 2).and_then(|(oid, name)| {
            let oid = format.parse(oid).filter(|oid| !oid.is_zero())?;
            Some((Name::parse(name.strip_prefix(b" ")?)?, Value::Object(oid)))
        });
        match found {
            Some((name, value)) => drop(refs.insert(name, value)),
            None => wrong += 1,
        }
    }
    (refs, wrong)
}

/// Returns the packed-refs file without these refs, otherwise unchanged.
pub fn without(bytes: &[u8], gone: &BTreeSet<Name>) -> Vec<u8> {
    let gone: BTreeSet<&[u8]> = gone.iter().map(|name| name.as_str().as_bytes()).collect();
    let mut kept = Vec::with_capacity(bytes.len());
    let mut is_gone = false;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // The line of a peeled tag belongs to the one before it.
        if !line.starts_with(b"^") {
            let name = line.trim_ascii_end().splitn(2, |byte| *byte == b' ').nth(1).unwrap_or_default();
            is_gone = !line.starts_with(b"#") && gone.contains(name);
        }
        if !is_gone {
            kept.extend_from_slice(line);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_no_names() {
        for name in ["refs/heads/main", "refs/heads/a/b.c", "refs/stash", "refs/tags/v1.0", "refs/heads/ü", "refs/notes/commits"] {
            assert!(Name::parse(name.as_bytes()).is_some(), "{name}");
        }
        for name in [
            "",
            "refs",
            "refs/",
            "refs/x",
            "HEAD",
            "heads/main",
            "/refs/heads/a",
            "refs/heads/",
            "refs/heads//a",
            "refs/heads/../x",
            "refs/heads/a..b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a.lock/b",
            "refs/heads/a b",
            "refs/heads/a\n",
            "refs/heads/a\0",
            "refs/heads/a~1",
            "refs/heads/a^",
            "refs/heads/a:b",
            "refs/heads/a?",
            "refs/heads/*",
            "refs/heads/[a",
            "refs/heads/a\\b",
            "refs/heads/@{u}",
            "refs/heads/-x",
            "refs/heads/a.",
            "refs/heads/@",
            "refs/../config",
            "refs/heads/\u{1b}[2J",
        ] {
            assert!(Name::parse(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(Name::parse(format!("refs/heads/{}", "a".repeat(2000)).as_bytes()).is_none());
        assert!(Name::parse(format!("refs/{}x", "a/".repeat(100)).as_bytes()).is_none());
        assert!(Name::parse(b"refs/heads/\xff").is_none());
        for (name, expect) in [("refs/heads/a", true), ("refs/replace/a", false), ("refs/silo/1/heads/a", false)] {
            assert_eq!(Name::parse(name.as_bytes()).expect("a name").may_come(), expect, "{name}");
        }
    }

    #[test]
    fn packed_refs_are_read_and_written_without_some() {
        let (a, b) = ("1".repeat(40), "2".repeat(40));
        let text = format!(
            "# pack-refs with: peeled fully-peeled sorted \n{a} refs/heads/x\n{b} refs/tags/t\n^{a}\n{b} refs/tags/u\nevil\n{a} refs/../x\n{} refs/heads/z\n",
            "0".repeat(40)
        );
        let (refs, wrong) = parse_packed(text.as_bytes(), Format::Sha1);
        assert_eq!((refs.len(), wrong), (3, 3));
        let name = Name::parse(b"refs/tags/t").expect("a name");
        let left = String::from_utf8(without(text.as_bytes(), &BTreeSet::from([name]))).expect("text");
        assert_eq!(left, text.replace(&format!("{b} refs/tags/t\n^{a}\n"), ""));
        for (text, expect) in [
            (format!("{a}\n"), true),
            (a.clone(), true),
            ("ref: refs/heads/x\n".to_owned(), true),
            ("ref: ../x\n".to_owned(), false),
            (format!("{a}\n{a}\n"), false),
            ("0".repeat(40), false),
            (String::new(), false),
        ] {
            let value = parse(text.as_bytes(), Format::Sha1);
            assert_eq!(value.is_some(), expect, "{text}");
            if let Some(value) = value {
                assert_eq!(super::text(&value).trim(), text.trim());
            }
        }
    }
}
