//! A composed tree with the layers of later steps stacked on it, as overlay lower directories.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use silo_store::capture::Lower;
use silo_store::compose::Base;
use silo_store::digest::LayerId;
use silo_store::index::Index;
use silo_store::layer::{self, LayerError};
use silo_store::layout::Store;
use silo_store::merge::Merged;
use silo_store::normal::CAPABILITY_XATTR;
use silo_store::path::LayerPath;

use silo_launch::spec::Owned;

/// Limit on the layers stacked on a composed tree. Each costs a few microseconds at every mount.
const MAX_STACKED: usize = 48;

/// A tree and the layers on it.
#[derive(Debug)]
pub(super) struct Stack {
    /// The tree.
    pub tree: PathBuf,
    /// The layers of the tree, lowest first, and their merge.
    layers: Vec<LayerId>,
    merged: Arc<Merged>,
    /// The layers stacked on the tree, lowest first.
    stacked: Vec<(LayerId, Arc<Index>)>,
    /// The files with other owners, and the number of their lists so far.
    owners: Vec<Owned>,
    lists: usize,
}

impl Stack {
    /// Returns the stack of a tree alone. `merged` is the merge of its layers.
    pub fn new(tree: PathBuf, layers: Vec<LayerId>, merged: Merged) -> Stack {
        let owners = owners_of(Lower(&[&merged.index]));
        Stack { tree, layers, merged: Arc::new(merged), stacked: Vec::new(), owners, lists: 1 }
    }

    /// Stacks those of `layers` that it lacks; returns false if that is not possible.
    pub fn extend(&mut self, store: &Store, layers: &[LayerId]) -> Result<bool, LayerError> {
        let have = self.layers.len() + self.stacked.len();
        let own = self.layers.iter().chain(self.stacked.iter().map(|(layer, _)| layer));
        if layers.len() > self.layers.len() + MAX_STACKED || layers.len() < have || !own.eq(&layers[..have]) {
            return Ok(false);
        }
        for layer in &layers[have..] {
            let index = Arc::new(layer::read_index(store, layer)?);
            if !self.lower(|lower| lower.can_bear(&index)) {
                return Ok(false);
            }
            let is_other = self.changes_owners(&index);
            self.stacked.push((*layer, index));
            if is_other {
                self.owners = self.lower(owners_of);
                self.lists += 1;
            }
        }
        Ok(true)
    }

    /// Calls `look` with the indexes of the stack.
    pub fn lower<T>(&self, look: impl FnOnce(Lower<'_>) -> T) -> T {
        let indexes: Vec<&Index> = self.stacked.iter().rev().map(|(_, index)| &**index).chain([&self.merged.index]).collect();
        look(Lower(&indexes))
    }

    /// Returns the directories to mount, the topmost first.
    ///
    /// If several steps gave the same layer, only its topmost place counts: the kernel refuses to stack a directory twice, and nothing of
    /// the lower one would be visible.
    pub fn mounts(&self, store: &Store) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let topmost = self.stacked.iter().rev().filter(|(layer, _)| seen.insert(*layer));
        topmost.map(|(layer, _)| store.tree(layer)).chain([self.tree.clone()]).collect()
    }

    /// Lists the files of other owners than 0:0 and those with capabilities, for a root in which owners are true. A directory comes before
    /// its content.
    pub fn owners(&self) -> &[Owned] {
        &self.owners
    }

    /// Returns the number of that list: it increases when the list changes.
    pub fn owners_number(&self) -> usize {
        self.lists
    }

    /// True if a layer on the stack changes the list.
    fn changes_owners(&self, layer: &Index) -> bool {
        let is_listed = |path: &Path| self.owners.iter().any(|owned| owned.path.strip_prefix("/").is_ok_and(|listed| listed == path));
        !Lower(&[layer]).owned().is_empty() || layer.entries().iter().any(|entry| is_listed(entry.path.as_path()))
    }

    /// Returns the layers of the tree, lowest first.
    pub fn of_tree(&self) -> &[LayerId] {
        &self.layers
    }

    /// Returns the tree as the base of another one.
    pub fn base(&self) -> Base {
        Base { tree: self.tree.clone(), layers: self.layers.clone(), merged: Arc::clone(&self.merged) }
    }
}

/// Lists the owned files of stacked layers.
fn owners_of(lower: Lower<'_>) -> Vec<Owned> {
    let absolute = |path: &LayerPath| Path::new("/").join(path.as_path());
    let owned = lower.owned().into_iter().map(|entry| Owned {
        path: absolute(entry.path),
        uid: entry.meta.uid,
        gid: entry.meta.gid,
        mode: entry.meta.mode,
        mtime: entry.meta.mtime,
        capability: entry.meta.xattrs.get(CAPABILITY_XATTR).cloned(),
        first: entry.first.map(absolute),
    });
    owned.collect()
}
