//! Entries before a commit: sizes are known, digests are not, and the first added name of a file is its main one.

use crate::archive::unknown_digest;
use crate::entry::{Entry, Meta, Node};
use crate::path::LayerPath;
use std::collections::BTreeMap;

/// An entry before the commit.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) meta: Meta,
    pub(crate) node: DraftNode,
}

#[derive(Clone, Debug)]
pub(crate) enum DraftNode {
    Dir {
        opaque: bool,
    },
    File {
        size: u64,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A hard link to the file entry `to`.
    Hardlink {
        to: LayerPath,
    },
    Whiteout,
}

/// Returns the entries in order, each file under the first of its names.
pub(crate) fn entries_of(drafts: &BTreeMap<LayerPath, Draft>) -> Vec<Entry> {
    // Drafts name a file by the path that was added first; the canonical name is the least.
    let mut first: BTreeMap<&LayerPath, &LayerPath> = BTreeMap::new();
    for (path, draft) in drafts {
        if let DraftNode::Hardlink { to } = &draft.node {
            first.entry(to).or_insert_with(|| path.min(to));
        }
    }
    let file = |path: &LayerPath, draft: &Draft, size| {
        let node = match first.get(path) {
            Some(first) if *first != path => Node::Hardlink { to: (*first).clone() },
            _ => Node::File { size, digest: unknown_digest() },
        };
        Entry { path: path.clone(), meta: draft.meta.clone(), node }
    };
    let entry = |(path, draft): (&LayerPath, &Draft)| {
        let node = match &draft.node {
            DraftNode::Dir { opaque } => Node::Dir { opaque: *opaque },
            DraftNode::File { size } => return file(path, draft, *size),
            DraftNode::Hardlink { to } => {
                let first = first.get(to).copied().unwrap_or(to);
                match drafts.get(to).map(|draft| &draft.node) {
                    Some(DraftNode::File { size }) if first == path => Node::File { size: *size, digest: unknown_digest() },
                    _ => Node::Hardlink { to: first.clone() },
                }
            }
            DraftNode::Symlink { target } => Node::Symlink { target: target.clone() },
            DraftNode::Whiteout => Node::Whiteout,
        };
        Entry { path: path.clone(), meta: draft.meta.clone(), node }
    };
    drafts.iter().map(entry).collect()
}
