//! The layers of an image for other programs, which stack at most about a hundred.
//!
//! An image with more layers is pushed with all of them, for silo, and with a smaller stack for others: the largest layers stay single, so
//! that images share them, and the small ones are merged into one layer at the bottom. Where another order would give another tree, the
//! lowest layers are merged, which never does.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use silo_store::compose::compose;
use silo_store::compression;
use silo_store::digest::{Hasher, LayerId};
use silo_store::entry::Node;
use silo_store::index::Index;
use silo_store::layer;
use silo_store::merge::merge;

use silo_model::oci::contents::Form;

use crate::blob::{self, Blob};
use crate::context::Context;
use crate::error::Error;

/// The most layers of a stack: docker takes 127, and other programs fewer with long paths.
pub const MAX_LAYERS: usize = 100;

/// A stack of layers for other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The layers that are merged into the lowest one, lowest first; none if the image has few layers.
    pub merged: Vec<LayerId>,
    /// The others, lowest first.
    pub single: Vec<LayerId>,
}

/// Chooses the layers to merge.
pub fn choose(context: &Context<'_>, layers: &[LayerId]) -> Result<Stack, Error> {
    if layers.len() <= MAX_LAYERS {
        return Ok(Stack { merged: Vec::new(), single: layers.to_vec() });
    }
    let read = |id: &LayerId| Ok::<_, Error>(layer::read_index(context.store, id)?);
    let indexes: Vec<Index> = layers.iter().map(read).collect::<Result<_, _>>()?;
    let count = layers.len() + 1 - MAX_LAYERS;
    let merged = smallest(&indexes, count).filter(|merged| is_same(&indexes, merged));
    let merged = merged.unwrap_or_else(|| (0..count).collect());
    let of = |is_merged: bool| (0..layers.len()).filter(|at| merged.contains(at) == is_merged).map(|at| layers[at]).collect();
    Ok(Stack { merged: of(true), single: of(false) })
}

/// Selects the layers with the fewest bytes that delete nothing; `None` if there are too few.
fn smallest(indexes: &[Index], count: usize) -> Option<BTreeSet<usize>> {
    let deletes = |index: &Index| index.entries().iter().any(|entry| matches!(entry.node, Node::Whiteout | Node::Dir { opaque: true }));
    let mut plain: Vec<usize> = (0..indexes.len()).filter(|at| !deletes(&indexes[*at])).collect();
    // Sorting is stable: of equal layers, the lower one is merged.
    plain.sort_by_key(|at| indexes[*at].bytes());
    (plain.len() >= count).then(|| plain.into_iter().take(count).collect())
}

/// Returns true if the tree is the same with these layers at the bottom.
fn is_same(indexes: &[Index], merged: &BTreeSet<usize>) -> bool {
    let (low, high): (Vec<usize>, Vec<usize>) = (0..indexes.len()).partition(|at| merged.contains(at));
    let moved: Vec<&Index> = low.iter().chain(&high).map(|at| &indexes[*at]).collect();
    let tree = |layers: &[&Index]| merge(layers).ok().map(|merged| merged.index);
    matches!((tree(&indexes.iter().collect::<Vec<_>>()), tree(&moved)), (Some(a), Some(b)) if a == b)
}

/// Returns the key under which the blob of merged layers is remembered.
pub fn key(merged: &[LayerId]) -> silo_store::digest::Digest {
    let mut hasher = Hasher::new();
    hasher.update(b"silo-merged 1\n");
    for layer in merged {
        hasher.update(layer.digest().as_bytes());
    }
    hasher.finish()
}

/// Merges layers and compresses the result into a file; `dir` is for temporary files.
pub fn compress(context: &Context<'_>, merged: &[LayerId], form: Form, dir: &Path, to: &Path) -> Result<Blob, Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Merge(source);
    compression::warm(context.store, context.lock, merged, &|_| {}).map_err(|error| failed(Box::new(error)))?;
    let tree = dir.join("merged");
    let composed = compose(context.store, context.lock, merged, &tree, &|_| {}).map_err(|error| failed(Box::new(error)))?;
    let archive = |out: &mut dyn Write| compression::write_archive(&tree, &composed.merged.index, &mut &mut *out);
    let blob = blob::write(&archive, form, to).map_err(|error| failed(Box::new(error)));
    silo_store::removal::remove_tree(&tree)?;
    let blob = blob?;
    blob::remember(context.home, key(merged), &blob)?;
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use silo_store::digest::Digest;
    use silo_store::entry::{Entry, Meta};
    use silo_store::path::LayerPath;

    use super::*;

    fn index(files: &[(&str, u64)], gone: &[&str]) -> Index {
        let meta = |mode| Meta { mode, uid: 0, gid: 0, mtime: 0, xattrs: Default::default() };
        let path = |text: &str| LayerPath::parse(text.as_bytes()).expect("a path");
        let file = |(name, size): &(&str, u64)| {
            let node = Node::File { size: *size, digest: Digest::of(size.to_string().as_bytes()) };
            Entry { path: path(name), meta: meta(0o644), node }
        };
        let gone = gone.iter().map(|name| Entry { path: path(name), meta: silo_store::normal::whiteout(), node: Node::Whiteout });
        let mut entries: Vec<Entry> = files.iter().map(file).chain(gone).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Index::new(entries).expect("an index")
    }

    #[test]
    fn the_smallest_layers_are_merged_unless_the_order_matters() {
        let apart = [index(&[("a", 9)], &[]), index(&[("b", 1)], &[]), index(&[("c", 5)], &[]), index(&[("d", 2)], &[])];
        assert_eq!(smallest(&apart, 2), Some([1, 3].into()));
        assert!(is_same(&apart, &[1, 3].into()));
        // The small layer replaces a file of the large one.
        let over = [index(&[("a", 9)], &[]), index(&[("a", 1)], &[]), index(&[("b", 2)], &[])];
        assert!(!is_same(&over, &[1].into()) && is_same(&over, &[0, 1].into()) && is_same(&over, &[2].into()));
        // A layer that deletes is never moved.
        let deleting = [index(&[("a", 9)], &[]), index(&[], &["a"]), index(&[("b", 2)], &[])];
        assert_eq!((smallest(&deleting, 1), smallest(&deleting, 3)), (Some([2].into()), None));
    }
}
