//! Root of a build step: one composed tree, with the layers of later steps stacked on it as overlay lower directories.
//!
//! Composing reads and merges the indexes of all layers. So the tree is composed again only if a step removed something that the kernel
//! cannot express by stacking, or if the stack gets too deep to mount fast.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use silo_store::capture::Lower;
use silo_store::compose::{self, Base, Wanted};
use silo_store::digest::LayerId;
use silo_store::index::Index;
use silo_store::normal::CAPABILITY_XATTR;
use silo_store::path::LayerPath;

use silo_launch::spec::Owned;

use super::context::{BuildContext, read_index};
use super::error::Error;
use super::image::unique_dir;
use super::workdir::Workdir;

/// Limit on the layers stacked on a composed tree. Each costs a few microseconds at every mount.
const MAX_STACKED: usize = 48;

/// The root of the next step; its tree is removed on drop.
#[derive(Debug)]
pub(super) struct StepRoot {
    /// The directory with the tree. Its name is its own, so no leftover of a killed build with this process id is taken for the tree.
    dir: PathBuf,
    tree: PathBuf,
    /// The layers of the tree, lowest first, and their merged index.
    layers: Vec<LayerId>,
    index: Arc<Index>,
    /// The layers stacked on the tree, lowest first.
    stacked: Vec<(LayerId, Arc<Index>)>,
    /// Working directories of earlier steps. They are removed late: when it allocates an inode, ext4 searches past all recently freed ones.
    spent: Vec<Workdir>,
    kept: bool,
}

impl StepRoot {
    /// Makes the root of these layers; reuses as much as possible of an older root.
    pub fn new(ctx: &BuildContext<'_>, layers: &[LayerId], old: Option<StepRoot>) -> Result<StepRoot, Error> {
        let mut old = old;
        let fits = old.as_mut().map(|root| root.stack(ctx, layers)).transpose()? == Some(true);
        if let Some(root) = old.take_if(|_| fits) {
            return Ok(root);
        }
        let dir = unique_dir(ctx.home, "root-")?;
        let tree = dir.join("root");
        let composed = match &old {
            Some(old) => compose::recompose(ctx.store, ctx.lock, &old.base(), Wanted { layers, into: &tree }, &|_| {}),
            None => compose::compose(ctx.store, ctx.lock, layers, &tree, &|_| {}),
        };
        let composed = composed.map_err(|source| Error::store("composing the step's root", source))?;
        let spent = old.map(|mut old| std::mem::take(&mut old.spent)).unwrap_or_default();
        Ok(StepRoot { dir, tree, layers: layers.to_vec(), index: Arc::new(composed.index), stacked: Vec::new(), spent, kept: false })
    }

    /// Stacks the layers that the root lacks; returns false if that is not possible.
    fn stack(&mut self, ctx: &BuildContext<'_>, layers: &[LayerId]) -> Result<bool, Error> {
        let have = self.layers.len() + self.stacked.len();
        let own = self.layers.iter().chain(self.stacked.iter().map(|(layer, _)| layer));
        if layers.len() > self.layers.len() + MAX_STACKED || layers.len() < have || !own.eq(&layers[..have]) {
            return Ok(false);
        }
        for layer in &layers[have..] {
            let index = Arc::new(read_index(ctx, *layer)?);
            if !self.lower(|lower| lower.can_bear(&index)) {
                return Ok(false);
            }
            self.stacked.push((*layer, index));
        }
        Ok(true)
    }

    /// Calls `look` with the indexes of the root.
    pub fn lower<T>(&self, look: impl FnOnce(Lower<'_>) -> T) -> T {
        let indexes: Vec<&Index> = self.stacked.iter().rev().map(|(_, index)| &**index).chain([&*self.index]).collect();
        look(Lower(&indexes))
    }

    /// Returns the directories to mount, the topmost first.
    ///
    /// If several steps gave the same layer, only its topmost place counts: the kernel refuses to stack a directory twice, and nothing of
    /// the lower one would be visible.
    pub fn mounts(&self, ctx: &BuildContext<'_>) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let topmost = self.stacked.iter().rev().filter(|(layer, _)| seen.insert(*layer));
        topmost.map(|(layer, _)| ctx.store.tree(layer)).chain([self.tree.clone()]).collect()
    }

    /// Lists the files of other owners than 0:0 and those with capabilities, for a root in which owners are true.
    pub fn owners(&self) -> Vec<Owned> {
        let absolute = |path: &LayerPath| Path::new("/").join(path.as_path());
        self.lower(|lower| {
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
        })
    }

    /// Returns the composed tree as the base of another one.
    pub fn base(&self) -> Base {
        Base { tree: self.tree.clone(), layers: self.layers.clone() }
    }

    /// Keeps the working directory of a finished step until the root is dropped.
    pub fn put_by(&mut self, bench: Workdir) {
        self.spent.push(bench);
    }

    /// Keeps the tree on drop, for `silo debug`.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for StepRoot {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is swept by `silo gc`. The tree may be gone already, if another one was made of it.
            drop(silo_store::removal::remove_tree(&self.dir));
        }
    }
}
