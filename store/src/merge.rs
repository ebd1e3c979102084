//! Merges stacked layers, on their indexes only.
//!
//! The rules are those of OCI images. A later entry wins. A whiteout removes the entry below it; an opaque directory removes its earlier
//! contents. A directory over a directory takes the later metadata and keeps the contents; anything else over a directory removes its
//! contents. Hard links of one file that survive together stay hard links. A parent without an entry becomes a 0:0 0755 directory.

use crate::entry::{Entry, Node};
use crate::index::{Index, IndexError};
use crate::normal;
use crate::path::LayerPath;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

/// Result of a merge.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// All entries; no whiteouts, nothing opaque.
    pub index: Index,
    /// For each entry, the number of its layer; `None` for an implied directory.
    pub sources: Vec<Option<usize>>,
    /// Paths at which a layer replaced a different entry.
    pub conflicts: Vec<Conflict>,
}

/// Two layers with different objects at one path, at most one of them a directory. Normal for a step that changes files; between packages
/// it means a lost file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The path.
    pub path: LayerPath,
    /// The number of the layer that lost.
    pub below: usize,
    /// The number of the layer that won.
    pub above: usize,
}

/// Reason why layers cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// An entry's parent is not a directory.
    #[error("{path} of layer {layer} is below a path that is not a directory")]
    NotADirectory {
        /// The entry.
        path: LayerPath,
        /// The number of its layer, the lowest being 0.
        layer: usize,
    },
    /// The result is not an index.
    #[error("the merged layers are not a valid tree")]
    Index(#[from] IndexError),
}

type Slots<'a> = BTreeMap<&'a LayerPath, (usize, &'a Entry)>;

/// Merges `layers`, lowest first.
pub fn merge(layers: &[&Index]) -> Result<Merged, MergeError> {
    stack(layers, Slots::new(), 0)
}

/// Merges the layers `above`, lowest first, onto `base`, the merge of `count` layers. The result is that of [`merge`] for all of them.
pub fn merge_onto(base: &Merged, count: usize, above: &[&Index]) -> Result<Merged, MergeError> {
    // Implied directories follow from the entries below them, which layers above may remove.
    let own = base.index.entries().iter().zip(&base.sources).filter(|(_, source)| source.is_some());
    let slots = own.map(|(entry, _)| (&entry.path, (0, entry))).collect();
    let layers: Vec<&Index> = std::iter::once(&base.index).chain(above.iter().copied()).collect();
    let mut merged = stack(&layers, slots, 1)?;
    // The numbers are those of `layers`.
    let source_of = |path: &LayerPath| base.index.position(path).and_then(|at| base.sources[at]).unwrap_or(0);
    let true_number = |number: usize, path: &LayerPath| if number == 0 { source_of(path) } else { number - 1 + count };
    for (source, entry) in merged.sources.iter_mut().zip(merged.index.entries()) {
        *source = source.map(|number| true_number(number, &entry.path));
    }
    let new = merged.conflicts.into_iter().map(|conflict| Conflict {
        below: true_number(conflict.below, &conflict.path),
        above: true_number(conflict.above, &conflict.path),
        path: conflict.path,
    });
    merged.conflicts = base.conflicts.iter().cloned().chain(new).collect();
    Ok(merged)
}

/// Stacks the layers from number `first` on, on the entries of those below.
fn stack<'a>(layers: &[&'a Index], mut slots: Slots<'a>, first: usize) -> Result<Merged, MergeError> {
    let mut conflicts = Vec::new();
    for (number, layer) in layers.iter().enumerate().skip(first) {
        for entry in layer.entries() {
            let path = &entry.path;
            let old = match &entry.node {
                Node::Whiteout => {
                    remove_below(&mut slots, path);
                    slots.remove(path);
                    continue;
                }
                Node::Dir { opaque: false } => slots.insert(path, (number, entry)),
                Node::Dir { opaque: true } | Node::File { .. } | Node::Symlink { .. } | Node::Hardlink { .. } => {
                    remove_below(&mut slots, path);
                    slots.insert(path, (number, entry))
                }
            };
            if let Some((below, old)) = old
                && !alike(layers[below], old, layer, entry)
            {
                conflicts.push(Conflict { path: path.clone(), below, above: number });
            }
        }
    }
    let (entries, sources) = flatten(layers, &slots)?;
    Ok(Merged { index: Index::new(entries)?, sources, conflicts })
}

fn remove_below(slots: &mut Slots<'_>, dir: &LayerPath) {
    let range = slots.range::<LayerPath, _>((Bound::Excluded(dir), Bound::Unbounded));
    let doomed: Vec<_> = range.map(|(path, _)| *path).take_while(|path| path.is_below(dir)).collect();
    for path in doomed {
        slots.remove(path);
    }
}

/// Checks that replacing one entry by the other loses nothing: same directory, bytes or target.
fn alike(old_layer: &Index, old: &Entry, new_layer: &Index, new: &Entry) -> bool {
    let bytes = |layer: &Index, entry: &Entry| match layer.resolve(&entry.path).map(|file| &file.node) {
        Some(Node::File { digest, .. }) => Some(*digest),
        _ => None,
    };
    match (&old.node, &new.node) {
        (Node::Dir { .. }, Node::Dir { .. }) => true,
        (Node::Symlink { target: old }, Node::Symlink { target: new }) => old == new,
        (Node::File { .. } | Node::Hardlink { .. }, Node::File { .. } | Node::Hardlink { .. }) => {
            bytes(old_layer, old) == bytes(new_layer, new)
        }
        _ => false,
    }
}

type Flat = (Vec<Entry>, Vec<Option<usize>>);

/// Converts the remaining slots to entries; adds parents and moves each file to its first surviving name.
fn flatten(layers: &[&Index], slots: &Slots<'_>) -> Result<Flat, MergeError> {
    let mut entries: Vec<Entry> = Vec::with_capacity(slots.len());
    let mut sources = Vec::with_capacity(slots.len());
    let mut first: HashMap<(usize, &LayerPath), &LayerPath> = HashMap::new();
    // The open ancestors of the current entry, outermost first.
    let mut open: Vec<LayerPath> = Vec::new();
    for (path, (layer, entry)) in slots {
        while open.last().is_some_and(|dir| !path.is_below(dir)) {
            open.pop();
        }
        for dir in missing_parents(path, open.last()) {
            if slots.contains_key(&dir) {
                return Err(MergeError::NotADirectory { path: (*path).clone(), layer: *layer });
            }
            entries.push(Entry { path: dir.clone(), meta: normal::implied_dir(), node: Node::Dir { opaque: false } });
            sources.push(None);
            open.push(dir);
        }
        let node = match &entry.node {
            Node::Dir { .. } => {
                open.push((*path).clone());
                Node::Dir { opaque: false }
            }
            Node::Symlink { .. } | Node::Whiteout => entry.node.clone(),
            Node::File { .. } | Node::Hardlink { .. } => {
                let file = layers[*layer].resolve(path).unwrap_or(entry);
                let name = first.entry((*layer, &file.path)).or_insert(path);
                if name == path { file.node.clone() } else { Node::Hardlink { to: (*name).clone() } }
            }
        };
        entries.push(Entry { path: (*path).clone(), meta: entry.meta.clone(), node });
        sources.push(Some(*layer));
    }
    Ok((entries, sources))
}

/// Returns the ancestors of `path` below `known`, outermost first.
fn missing_parents(path: &LayerPath, known: Option<&LayerPath>) -> Vec<LayerPath> {
    let mut missing = Vec::new();
    let mut above = path.parent();
    while let Some(dir) = above.filter(|dir| known != Some(dir)) {
        above = dir.parent();
        missing.push(dir);
    }
    missing.reverse();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// Makes an index of short lines: `d p`, `o p`, `f p bytes`, `l p target`, `h p to`, `w p`.
    fn index(lines: &[&str]) -> Index {
        let mut text = String::from("silo-index 1\n");
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            text += &match words[..] {
                ["d" | "o", path] => format!("{} 0755 0 0 {path}\n", words[0]),
                ["d", path, mode] => format!("d {mode} 0 0 {path}\n"),
                ["f", path, bytes] => {
                    let digest = Digest::of(bytes.as_bytes());
                    format!("f 0644 0 0 1 {} {digest} {path}\n", bytes.len())
                }
                ["l", path, target] => format!("l 0 0 {path} {target}\n"),
                _ => format!("{line}\n"),
            };
        }
        Index::parse(text.as_bytes()).unwrap()
    }

    fn check(layers: &[&[&str]], expect: &[&str], conflicts: &[&str]) {
        let layers: Vec<Index> = layers.iter().map(|lines| index(lines)).collect();
        let layers: Vec<&Index> = layers.iter().collect();
        let merged = merge(&layers).unwrap();
        let expect = index(expect);
        let text = |index: &Index| String::from_utf8(index.to_text()).unwrap();
        assert_eq!(text(&merged.index), text(&expect));
        assert_eq!(merged.sources.len(), expect.entries().len());
        let found: Vec<String> = merged.conflicts.iter().map(|c| c.path.to_string()).collect();
        assert_eq!(found, conflicts);
    }

    #[test]
    fn later_layers_win() {
        check(&[], &[], &[]);
        check(&[&["d a", "f a/x 1"], &["d a 0700", "f a/y 2"]], &["d a 0700", "f a/x 1", "f a/y 2"], &[]);
        check(&[&["f x 1"], &["f x 1"], &["f x 2"]], &["f x 2"], &["x"]);
        check(&[&["l x a"], &["l x a"]], &["l x a"], &[]);
        check(&[&["l x a"], &["l x b"]], &["l x b"], &["x"]);
        check(&[&["d a", "f a/x 1"], &["l a b"]], &["l a b"], &["a"]);
        check(&[&["l a b"], &["d a", "f a/x 1"]], &["d a", "f a/x 1"], &["a"]);
        check(&[&["f a/x 1"], &["f a 2"]], &["f a 2"], &[]);
    }

    #[test]
    fn deletions() {
        check(&[&["d a", "f a/x 1", "f a.b 1"], &["w a"]], &["f a.b 1"], &[]);
        check(&[&["d a", "f a/x 1"], &["w a/x"]], &["d a"], &[]);
        check(&[&["d a", "f a/x 1"], &["o a", "f a/y 2"]], &["d a", "f a/y 2"], &[]);
        check(&[&["w x"], &["f x 1"]], &["f x 1"], &[]);
        check(&[&["f a/b/x 1"], &["w a/b"]], &[], &[]);
    }

    #[test]
    fn parents_and_links() {
        check(&[&["f a/b/x 1", "f a/c/x 1"]], &["d a", "d a/b", "f a/b/x 1", "d a/c", "f a/c/x 1"], &[]);
        check(&[&["d a 0700"], &["f a/b/x 1"]], &["d a 0700", "d a/b", "f a/b/x 1"], &[]);
        let linked: &[&str] = &["f a 1", "h b a", "h c a"];
        check(&[linked, &["w a"]], &["f b 1", "h c b"], &[]);
        check(&[linked, &["f a 2"]], &["f a 2", "f b 1", "h c b"], &["a"]);
        check(&[linked, linked], linked, &[]);
        check(&[linked, &["f b 1"]], &["f a 1", "f b 1", "h c a"], &[]);
        let layers = [index(&["l a b"]), index(&["f a/x 1"])];
        let error = merge(&[&layers[0], &layers[1]]).unwrap_err();
        assert!(matches!(error, MergeError::NotADirectory { layer: 1, .. }));
    }

    #[test]
    fn merging_onto_a_merge_is_merging_all() {
        let lines: &[&[&str]] = &[
            &["d a", "f a/x 1", "h a/y a/x", "f b/c/d 1", "l s a"],
            &["w a/x", "f b/c/e 2"],
            &["w b/c/d"],
            &["d a 0700", "f s 1", "h t s"],
            &["w b/c/e", "f n/o/p 3"],
            &["o a", "f a/z 4"],
            &["w n/o", "f s 2"],
            &["l a b"],
            &["d a", "f a/q/r 1"],
        ];
        let layers: Vec<Index> = lines.iter().map(|lines| index(lines)).collect();
        let layers: Vec<&Index> = layers.iter().collect();
        for end in 0..=layers.len() {
            let all = merge(&layers[..end]).unwrap();
            for count in 0..=end {
                let onto = merge_onto(&merge(&layers[..count]).unwrap(), count, &layers[count..end]).unwrap();
                assert_eq!(onto.index.to_text(), all.index.to_text(), "{count} of {end}");
                assert_eq!((&onto.sources, &onto.conflicts), (&all.sources, &all.conflicts), "{count} of {end}");
            }
        }
    }
}
