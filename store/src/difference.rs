//! Differences between two trees, by their entries.

use crate::entry::{Entry, Node};
use crate::index::Index;
use crate::path::LayerPath;
use std::cmp::Ordering;
use std::fmt;

/// One path at which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path.
    pub path: LayerPath,
    /// The kind of difference.
    pub change: Change,
}

/// Change of a path from the first to the second tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second tree has the path.
    Added,
    /// Only the first tree has the path.
    Removed,
    /// Both trees have the path; the aspects that differ.
    Changed(Vec<Aspect>),
}

/// One aspect of an entry that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aspect {
    /// The aspect: `kind`, `content`, `size`, `target`, `mode`, `owner`, `time` or `attributes`.
    pub name: &'static str,
    /// The value in the first tree.
    pub old: String,
    /// The value in the second tree.
    pub new: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Added => write!(f, "+ {}", self.path),
            Change::Removed => write!(f, "- {}", self.path),
            Change::Changed(aspects) => {
                let told: Vec<String> = aspects.iter().map(|aspect| format!("{} {} -> {}", aspect.name, aspect.old, aspect.new)).collect();
                write!(f, "~ {} ({})", self.path, told.join(", "))
            }
        }
    }
}

/// Lists the differences from `old` to `new`, by path.
pub fn differences(old: &Index, new: &Index) -> Vec<Difference> {
    let (mut olds, mut news) = (old.entries().iter().peekable(), new.entries().iter().peekable());
    let mut found = Vec::new();
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.path.cmp(&new.path),
        };
        match order {
            Ordering::Less => found.extend(olds.next().map(|entry| Difference { path: entry.path.clone(), change: Change::Removed })),
            Ordering::Greater => found.extend(news.next().map(|entry| Difference { path: entry.path.clone(), change: Change::Added })),
            Ordering::Equal => {
                if let (Some(old), Some(new)) = (olds.next(), news.next())
                    && old != new
                {
                    found.push(Difference { path: old.path.clone(), change: Change::Changed(aspects(old, new)) });
                }
            }
        }
    }
}

/// Lists the differing aspects of two entries with one path.
fn aspects(old: &Entry, new: &Entry) -> Vec<Aspect> {
    let mut found = Vec::new();
    let mut tell = |name, old: String, new: String| {
        if old != new {
            found.push(Aspect { name, old, new });
        }
    };
    match (&old.node, &new.node) {
        (Node::File { size: old_size, digest: old_digest }, Node::File { size, digest }) => {
            tell("size", old_size.to_string(), size.to_string());
            tell("content", format!("{:.12}", old_digest.to_string()), format!("{:.12}", digest.to_string()));
        }
        (Node::Symlink { target: old }, Node::Symlink { target: new }) => {
            tell("target", String::from_utf8_lossy(old).into_owned(), String::from_utf8_lossy(new).into_owned());
        }
        (Node::Hardlink { to: old }, Node::Hardlink { to: new }) => tell("target", old.to_string(), new.to_string()),
        (old, new) => tell("kind", format!("{:?}", old.kind()).to_lowercase(), format!("{:?}", new.kind()).to_lowercase()),
    }
    let (old, new) = (&old.meta, &new.meta);
    tell("mode", format!("{:04o}", old.mode), format!("{:04o}", new.mode));
    tell("owner", format!("{}:{}", old.uid, old.gid), format!("{}:{}", new.uid, new.gid));
    tell("time", old.mtime.to_string(), new.mtime.to_string());
    let names = |meta: &crate::entry::Meta| {
        let told = meta.xattrs.iter().map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        told.collect::<Vec<_>>().join(" ")
    };
    tell("attributes", names(old), names(new));
    found
}

#[cfg(test)]
mod tests {
    use super::differences;
    use crate::digest::Digest;
    use crate::entry::{Entry, Meta, Node};
    use crate::index::Index;
    use crate::path::LayerPath;

    fn file(path: &str, text: &[u8], mode: u32) -> Entry {
        let meta = Meta { mode, ..Meta::default() };
        let node = Node::File { size: text.len() as u64, digest: Digest::of(text) };
        Entry { path: LayerPath::parse(path.as_bytes()).expect("a plain path"), meta, node }
    }

    fn index(entries: Vec<Entry>) -> Index {
        Index::new(entries).expect("a tree")
    }

    #[test]
    fn every_difference_is_reported() {
        let old = index(vec![file("a", b"1", 0o644), file("b", b"1", 0o644), file("d", b"1", 0o644)]);
        let new = index(vec![file("b", b"22", 0o755), file("c", b"1", 0o644), file("d", b"1", 0o644)]);
        let told: Vec<String> = differences(&old, &new).iter().map(ToString::to_string).collect();
        let content = "content 6b86b273ff34 -> 785f3ec7eb32";
        assert_eq!(told, ["- a".to_owned(), format!("~ b (size 1 -> 2, {content}, mode 0644 -> 0755)"), "+ c".to_owned()]);
        assert_eq!(differences(&old, &old), []);
    }
}
