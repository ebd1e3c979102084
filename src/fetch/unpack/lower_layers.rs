//! The layers below a foreign image's layer, and the meaning of the layer's paths over them.
//!
//! A layer is a difference. If it names a path below a directory that only lower layers have, a program that unpacks all layers into one
//! directory follows their symlinks there (umoci, `docker load` without overlays). Silo does the same. Most layers list every directory
//! that they change; such layers do not depend on lower layers and are unpacked in parallel.

use std::fs::File;
use std::io;

use silo_store::entry::{Entry, Node};
use silo_store::index::Index;
use silo_store::path::LayerPath;

/// Limit of symlinks in one path, as in Linux.
pub const MAX_LINKS: usize = 40;

/// The layers below.
#[derive(Clone, Copy)]
pub struct Lower<'a> {
    /// All lower layers, merged.
    pub index: &'a Index,
    /// Opens one of their files.
    pub open: &'a dyn Fn(&LayerPath) -> io::Result<File>,
}

impl Lower<'_> {
    /// Returns the entry at a path.
    pub fn get(&self, path: &LayerPath) -> Option<&Entry> {
        self.index.get(path)
    }
}

/// Checks if a layer that was unpacked alone has the same meaning over lower layers: each unlisted parent directory of its entries must be
/// a directory there or missing.
pub fn fits(layer: &Index, lower: &Index) -> bool {
    let is_dir = |dir: &LayerPath| lower.get(dir).is_none_or(|entry| matches!(entry.node, Node::Dir { .. }));
    let mut seen: Option<LayerPath> = None;
    loose(layer).all(|dir| {
        let is_new = seen.as_ref() != Some(&dir);
        seen = Some(dir.clone());
        !is_new || is_dir(&dir)
    })
}

/// Returns true if a layer has entries in directories that are not entries.
pub fn is_loose(layer: &Index) -> bool {
    loose(layer).next().is_some()
}

/// Lists the parent directories of a layer's entries that are not entries.
fn loose(layer: &Index) -> impl Iterator<Item = LayerPath> {
    layer.entries().iter().flat_map(move |entry| {
        let above = std::iter::successors(entry.path.parent(), LayerPath::parent);
        // Stop at the first listed parent: its own parents are checked with it.
        above.take_while(move |dir| layer.get(dir).is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(lines: &str) -> Index {
        Index::parse(format!("silo-index 1\n{lines}").as_bytes()).expect("an index")
    }

    #[test]
    fn whiteouts_need_a_real_parent_directory() {
        let lower = index("d 0755 0 0 a\nl 0 0 lib usr/lib\nd 0755 0 0 usr\nd 0755 0 0 usr/lib\n");
        for (lines, is_there, is_well) in [
            ("d 0755 0 0 lib\nw lib/x\n", false, true),
            ("w lib/x\n", true, false),
            ("w lib/y/x\n", true, false),
            ("d 0755 0 0 lib/y\nw lib/y/x\n", true, false),
            ("w usr/lib/x\n", true, true),
            ("w a/b/c\n", true, true),
            ("w lib\n", false, true),
        ] {
            let layer = index(lines);
            assert_eq!((is_loose(&layer), fits(&layer, &lower)), (is_there, is_well), "{lines}");
        }
    }
}
