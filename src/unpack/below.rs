//! The layers below one of somebody else's image: what a layer's names mean over them.
//!
//! A layer is a difference. Where it names a path below something that only lower layers have, a program that unpacks all layers
//! into one directory follows their symbolic links (umoci, `docker load` without overlays), and so does Silo. Most layers name
//! every directory that they change; those mean the same over any others and are unpacked side by side.

use std::fs::File;
use std::io;

use silo_store::entry::{Entry, Node};
use silo_store::index::Index;
use silo_store::path::LayerPath;

/// Most symbolic links on the way to one path, as in Linux.
pub const MAX_LINKS: usize = 40;

/// The layers below.
#[derive(Clone, Copy)]
pub struct Lower<'a> {
    /// What they are together.
    pub index: &'a Index,
    /// Opens a file of theirs.
    pub open: &'a dyn Fn(&LayerPath) -> io::Result<File>,
}

impl Lower<'_> {
    /// Returns what stands at a path.
    pub fn get(&self, path: &LayerPath) -> Option<&Entry> {
        self.index.get(path)
    }
}

/// Says whether a layer that was unpacked alone means the same over lower layers. It does if each directory that its entries are
/// in, and that it does not list, is a directory in them or missing.
pub fn fits(layer: &Index, lower: &Index) -> bool {
    let is_dir = |dir: &LayerPath| lower.get(dir).is_none_or(|entry| matches!(entry.node, Node::Dir { .. }));
    let mut seen: Option<LayerPath> = None;
    loose(layer).all(|dir| {
        let is_new = seen.as_ref() != Some(&dir);
        seen = Some(dir.clone());
        !is_new || is_dir(&dir)
    })
}

/// Says whether a layer has entries in directories that are no entries.
pub fn is_loose(layer: &Index) -> bool {
    loose(layer).next().is_some()
}

/// Lists the directories above a layer's entries that are none.
fn loose(layer: &Index) -> impl Iterator<Item = LayerPath> {
    layer.entries().iter().flat_map(move |entry| {
        let above = std::iter::successors(entry.path.parent(), LayerPath::parent);
        // Whatever has an entry was described together with what is above it, or is looked at itself.
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
    fn a_layer_fits_where_what_it_leaves_out_is_a_directory() {
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
