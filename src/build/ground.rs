//! The root that a step sees: one composed tree, and the layers of the steps since then stacked on it.
//!
//! Composing reads and merges what all layers hold, so it is done again only where the kernel cannot stack what came since:
//! where a step took something away, and after a number of layers that still mount fast.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use silo_store::capture::Lower;
use silo_store::compose::{self, Base};
use silo_store::digest::LayerId;
use silo_store::index::Index;

use super::bench::Bench;
use super::{Error, Workshop, read_index};

/// Layers stacked on a composed tree before all are composed anew. Each costs a few microseconds at every mount.
const MAX_STACKED: usize = 48;

/// A root under construction; its tree is removed with it.
#[derive(Debug)]
pub(super) struct Ground {
    tree: PathBuf,
    /// The layers of the tree, lowest first, and what they are together.
    layers: Vec<LayerId>,
    index: Arc<Index>,
    /// The layers on it, lowest first.
    stacked: Vec<(LayerId, Arc<Index>)>,
    /// Where steps have worked; removed late, because ext4 searches past inodes that were freed a moment ago for each new one.
    spent: Vec<Bench>,
    kept: bool,
}

impl Ground {
    /// Makes the root of these layers, out of an earlier one where there is one.
    pub fn new(shop: &Workshop<'_>, layers: &[LayerId], old: Option<Ground>) -> Result<Ground, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut old = old;
        if let Some(ground) = &mut old
            && ground.stack(shop, layers)?
        {
            return old.ok_or(Error::Worker);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tree = shop.home.work().join(format!("root-{}-{number}", std::process::id()));
        let composed = match &old {
            Some(old) => compose::recompose(shop.store, shop.lock, &old.base(), layers, &tree, &|_| {}),
            None => compose::compose(shop.store, shop.lock, layers, &tree, &|_| {}),
        };
        let composed = composed.map_err(|source| Error::store("composing the step's root", source))?;
        let spent = old.map(|mut old| std::mem::take(&mut old.spent)).unwrap_or_default();
        Ok(Ground { tree, layers: layers.to_vec(), index: Arc::new(composed.index), stacked: Vec::new(), spent, kept: false })
    }

    /// Stacks what is missing of these layers, if that can be done; says whether it could.
    fn stack(&mut self, shop: &Workshop<'_>, layers: &[LayerId]) -> Result<bool, Error> {
        let have = self.layers.len() + self.stacked.len();
        let own = self.layers.iter().chain(self.stacked.iter().map(|(layer, _)| layer));
        if layers.len() > self.layers.len() + MAX_STACKED || layers.len() < have || !own.eq(&layers[..have]) {
            return Ok(false);
        }
        for layer in &layers[have..] {
            let index = Arc::new(read_index(shop, *layer)?);
            if !self.lower(|lower| lower.can_bear(&index)) {
                return Ok(false);
            }
            self.stacked.push((*layer, index));
        }
        Ok(true)
    }

    /// Hands over what the root holds.
    pub fn lower<T>(&self, look: impl FnOnce(Lower<'_>) -> T) -> T {
        let indexes: Vec<&Index> = self.stacked.iter().rev().map(|(_, index)| &**index).chain([&*self.index]).collect();
        look(Lower(&indexes))
    }

    /// The directories to mount, the topmost first.
    ///
    /// A layer that several steps came to is there once, where it is topmost: the kernel refuses to stack a directory
    /// twice, and nothing of the lower one could be seen.
    pub fn mounts(&self, shop: &Workshop<'_>) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let topmost = self.stacked.iter().rev().filter(|(layer, _)| seen.insert(*layer));
        topmost.map(|(layer, _)| shop.store.tree(layer)).chain([self.tree.clone()]).collect()
    }

    /// The composed tree, for another one to be made of.
    pub fn base(&self) -> Base {
        Base { tree: self.tree.clone(), layers: self.layers.clone() }
    }

    /// Keeps a place that is not needed any more until the root goes.
    pub fn put_by(&mut self, bench: Bench) {
        self.spent.push(bench);
    }

    /// Leaves the tree where it is, for a look into it.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is swept by `silo gc`; one that another was made of is gone already.
            drop(silo_store::removal::remove_tree(&self.tree));
        }
    }
}
