//! Root of a build step: one composed tree, with the layers of later steps stacked on it as overlay lower directories.
//!
//! Composing reads and merges the indexes of all layers. So the tree is composed again only if a step removed something that the kernel
//! cannot express by stacking, or if the stack gets too deep to mount fast. A step that runs on another machine needs only the merged index.

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
    /// The state of `tree`.
    state: Tree,
}

/// The state of the tree of a root.
#[derive(Debug)]
enum Tree {
    /// The tree is on the disk.
    Composed,
    /// The tree is not on the disk. It may be made of this older one.
    Needed(Option<Box<StepRoot>>),
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
        let spent = old.as_mut().map(|old| std::mem::take(&mut old.spent)).unwrap_or_default();
        let base = old.and_then(|mut old| match &mut old.state {
            Tree::Composed => Some(Box::new(old)),
            Tree::Needed(older) => older.take(),
        });
        let may_run_away = ctx.pool.is_some_and(|away| away.runs(ctx.home.arch()));
        let (index, state) = if may_run_away {
            let index = compose::index(ctx.store, layers).map_err(|source| Error::store("merging the layers of a step", source))?;
            (index, Tree::Needed(base))
        } else {
            (composed(ctx, base.as_deref(), Wanted { layers, into: &tree })?, Tree::Composed)
        };
        let (layers, index, stacked) = (layers.to_vec(), Arc::new(index), Vec::new());
        Ok(StepRoot { dir, tree, layers, index, stacked, spent, kept: false, state })
    }

    /// Composes the tree, unless it is on the disk. Call it before anything reads the directories of [`StepRoot::mounts`].
    pub fn compose(&mut self, ctx: &BuildContext<'_>) -> Result<(), Error> {
        if let Tree::Needed(base) = &mut self.state {
            let base = base.take();
            composed(ctx, base.as_deref(), Wanted { layers: &self.layers, into: &self.tree })?;
            self.state = Tree::Composed;
        }
        Ok(())
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

    /// Returns the composed tree as the base of another one; `None` if nothing was composed.
    pub fn base(&self) -> Option<Base> {
        match &self.state {
            Tree::Composed => Some(Base { tree: self.tree.clone(), layers: self.layers.clone() }),
            Tree::Needed(older) => older.as_ref()?.base(),
        }
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

/// Composes a tree, of an older one if possible; returns its entries.
fn composed(ctx: &BuildContext<'_>, base: Option<&StepRoot>, wanted: Wanted<'_>) -> Result<Index, Error> {
    let made = match base.and_then(StepRoot::base) {
        Some(base) => compose::recompose(ctx.store, ctx.lock, &base, wanted, &|_| {}),
        None => compose::compose(ctx.store, ctx.lock, wanted.layers, wanted.into, &|_| {}),
    };
    Ok(made.map_err(|source| Error::store("composing the step's root", source))?.index)
}

impl Drop for StepRoot {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is swept by `silo gc`. The tree may be gone already, if another one was made of it.
            drop(silo_store::removal::remove_tree(&self.dir));
        }
    }
}
