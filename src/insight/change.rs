//! Compares two entries, and finds the changes of a path from layer to layer.

use std::fmt;

use silo_store::digest::Digest;
use silo_store::entry::{Entry, Kind, Node};
use silo_store::index::Index;
use silo_store::path::LayerPath;

/// A property in which two entries at one path differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// The file type.
    Type,
    /// The content of a file.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The permissions.
    Mode,
    /// User or group.
    Owner,
    /// Extended attributes.
    Attributes,
    /// The modification time.
    Time,
}

impl Aspect {
    /// Returns the name of the property.
    pub fn name(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Content => "content",
            Aspect::Target => "target",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Attributes => "attributes",
            Aspect::Time => "time",
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the properties in which the entries `a` and `b` of two indexes differ.
pub fn compare(in_a: &Index, a: &Entry, in_b: &Index, b: &Entry) -> Vec<Aspect> {
    let (kind_a, kind_b) = (kind(a), kind(b));
    let mut aspects = Vec::new();
    if kind_a != kind_b {
        aspects.push(Aspect::Type);
    }
    if kind_a == Kind::File && kind_b == Kind::File && content(in_a, a) != content(in_b, b) {
        aspects.push(Aspect::Content);
    }
    if let (Node::Symlink { target: a }, Node::Symlink { target: b }) = (&a.node, &b.node)
        && a != b
    {
        aspects.push(Aspect::Target);
    }
    // A symlink's mode and a directory's time are constants. After a change of type, the differences that follow from it say nothing more.
    let same_kind = kind_a == kind_b;
    for (aspect, differs) in [
        (Aspect::Mode, same_kind && a.meta.mode != b.meta.mode),
        (Aspect::Owner, (a.meta.uid, a.meta.gid) != (b.meta.uid, b.meta.gid)),
        (Aspect::Attributes, same_kind && a.meta.xattrs != b.meta.xattrs),
        (Aspect::Time, same_kind && a.meta.mtime != b.meta.mtime),
    ] {
        if differs {
            aspects.push(aspect);
        }
    }
    aspects
}

/// Returns an entry's kind; a hard link counts as a file.
pub fn kind(entry: &Entry) -> Kind {
    match entry.node.kind() {
        Kind::Hardlink => Kind::File,
        kind => kind,
    }
}

/// Returns the display name of a kind.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "directory",
        Kind::File | Kind::Hardlink => "file",
        Kind::Symlink => "symbolic link",
        Kind::Whiteout => "deletion",
    }
}

/// Returns the digest of a file's content, also for a hard link to it.
pub fn content(index: &Index, entry: &Entry) -> Option<Digest> {
    match index.resolve(&entry.path).map(|file| &file.node) {
        Some(Node::File { digest, .. }) => Some(*digest),
        _ => None,
    }
}

/// Returns the size of a file, also for a hard link to it; 0 for other kinds.
pub fn size(index: &Index, entry: &Entry) -> u64 {
    match index.resolve(&entry.path).map(|file| &file.node) {
        Some(Node::File { size, .. }) => *size,
        _ => 0,
    }
}

/// A layer's change of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Added, where nothing was.
    Made,
    /// Replaced by something different.
    Changed(Vec<Aspect>),
    /// Replaced by the same.
    Kept,
    /// Removed.
    Removed,
}

/// Returns the changes of `path` by `layers`, lowest first, each with the layer's index.
pub fn history(layers: &[Index], path: &LayerPath) -> Vec<(usize, PathChange)> {
    let mut deeds = Vec::new();
    let mut standing: Option<(&Index, &Entry)> = None;
    for (number, layer) in layers.iter().enumerate() {
        let here = layer.get(path).filter(|entry| entry.node != Node::Whiteout);
        match (standing, here) {
            (None, Some(_)) => deeds.push((number, PathChange::Made)),
            (Some(_), None) if hides(layer, path) => {
                deeds.push((number, PathChange::Removed));
                standing = None;
            }
            (Some((below, old)), Some(new)) => {
                let aspects = compare(below, old, layer, new);
                deeds.push((number, if aspects.is_empty() { PathChange::Kept } else { PathChange::Changed(aspects) }));
            }
            (_, None) => {}
        }
        standing = here.map(|entry| (layer, entry)).or(standing);
    }
    deeds
}

/// Returns true if a layer without an entry at `path` hides the path in lower layers.
fn hides(layer: &Index, path: &LayerPath) -> bool {
    let above = std::iter::successors(path.parent(), LayerPath::parent);
    let covered = above.filter_map(|dir| layer.get(&dir)).any(|entry| match entry.node {
        Node::Dir { opaque } => opaque,
        Node::File { .. } | Node::Symlink { .. } | Node::Hardlink { .. } | Node::Whiteout => true,
    });
    covered || layer.get(path).is_some_and(|entry| entry.node == Node::Whiteout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(lines: &str) -> Index {
        Index::parse(format!("silo-index 1\n{lines}").as_bytes()).expect("an index")
    }

    fn file(path: &str, mode: &str, mtime: u32, bytes: &str) -> String {
        format!("f {mode} 0 0 {mtime} {} {} {path}\n", bytes.len(), Digest::of(bytes.as_bytes()))
    }

    #[test]
    fn differences_are_named() {
        for (a, b, expect) in [
            (file("x", "0644", 1, "a"), file("x", "0644", 1, "a"), ""),
            (file("x", "0644", 1, "a"), file("x", "0755", 2, "b"), "content mode time"),
            (file("x", "0644", 1, "a"), "d 0755 0 7 x\n".to_owned(), "type owner"),
            ("l 0 0 x a\n".to_owned(), "l 0 1 x b\n".to_owned(), "target owner"),
            ("d 0755 0 0 x\n".to_owned(), "d 0700 0 0 x user.a=b\n".to_owned(), "mode attributes"),
            (file("a", "0644", 1, "a") + "h x a\n", file("x", "0644", 1, "a"), ""),
        ] {
            let (a, b) = (index(&a), index(&b));
            let path = LayerPath::parse(b"x").expect("a path");
            let (x, y) = (a.get(&path).expect("an entry"), b.get(&path).expect("an entry"));
            let words: Vec<String> = compare(&a, x, &b, y).iter().map(ToString::to_string).collect();
            assert_eq!(words.join(" "), expect);
        }
    }

    #[test]
    fn a_path_has_a_history() {
        let layers = [
            index(&format!("d 0755 0 0 d\n{}", file("d/x", "0644", 1, "a"))),
            index(&file("other", "0644", 1, "a")),
            index(&file("d/x", "0644", 1, "a")),
            index(&file("d/x", "0644", 1, "b")),
            index("w d\n"),
            index(&format!("d 0755 0 0 d\n{}", file("d/x", "0644", 1, "c"))),
            index("o 0755 0 0 d\n"),
        ];
        let path = LayerPath::parse(b"d/x").expect("a path");
        let expect = [
            (0, PathChange::Made),
            (2, PathChange::Kept),
            (3, PathChange::Changed(vec![Aspect::Content])),
            (4, PathChange::Removed),
            (5, PathChange::Made),
            (6, PathChange::Removed),
        ];
        assert_eq!(history(&layers, &path), expect);
    }
}
