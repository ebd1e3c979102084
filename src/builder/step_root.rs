//! Root of a build step: one composed tree, with the layers of later steps stacked on it as overlay lower directories.
//!
//! Composing reads and merges the indexes of all layers. So the tree is composed again only if a step removed something that the kernel
//! cannot express by stacking, or if the stack gets too deep to mount fast. A step that runs on another machine needs only the merged index.

use std::path::PathBuf;

use silo_store::compose::{self, Base, Wanted};
use silo_store::digest::LayerId;
use silo_store::merge::Merged;

use silo_launch::reexec;

use super::chain::Ahead;
use super::context::BuildContext;
use super::error::Error;
use super::image::unique_dir;
use super::stack::Stack;
use super::workdir::Workdir;

/// The root of the next step; its tree is removed on drop.
#[derive(Debug)]
pub(super) struct StepRoot {
    /// The directory with the tree. Its name is its own, so no leftover of a killed build with this process id is taken for the tree.
    dir: PathBuf,
    /// The tree and the layers on it.
    pub stack: Stack,
    /// Working directories of earlier steps. They are removed late: when it allocates an inode, ext4 searches past all recently freed ones.
    spent: Vec<Workdir>,
    kept: bool,
    /// The state of the tree.
    state: Tree,
    /// Results of later steps, if a worker ran a chain.
    pub ahead: Option<Ahead>,
    /// The program that gives files of other ids to the caller.
    program: PathBuf,
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
        let stacked = old.as_mut().map(|root| root.stack.extend(ctx.store, layers)).transpose();
        let fits = stacked.map_err(|source| Error::store("reading the layers of a step", source))? == Some(true);
        if let Some(root) = old.take_if(|_| fits) {
            return Ok(root);
        }
        let dir = unique_dir(ctx.home, "root-")?;
        let tree = dir.join("root");
        let spent = old.as_mut().map(|old| std::mem::take(&mut old.spent)).unwrap_or_default();
        let ahead = old.as_mut().and_then(|old| old.ahead.take());
        let base = old.and_then(|mut old| match &mut old.state {
            Tree::Composed => Some(Box::new(old)),
            Tree::Needed(older) => older.take(),
        });
        let may_run_away = ctx.pool.is_some_and(|away| away.runs(ctx.home.arch()));
        let (merged, state) = if may_run_away {
            let merged = compose::merged(ctx.store, layers).map_err(|source| Error::store("merging the layers of a step", source))?;
            (merged, Tree::Needed(base))
        } else {
            (composed(ctx, base.as_deref(), Wanted { layers, into: &tree })?, Tree::Composed)
        };
        Ok(StepRoot {
            dir,
            stack: Stack::new(tree, layers.to_vec(), merged),
            spent,
            kept: false,
            state,
            ahead,
            program: ctx.program.to_owned(),
        })
    }

    /// Composes the tree, unless it is on the disk. Call it before anything reads the directories of [`Stack::mounts`].
    pub fn compose(&mut self, ctx: &BuildContext<'_>) -> Result<(), Error> {
        if let Tree::Needed(base) = &mut self.state {
            let base = base.take();
            composed(ctx, base.as_deref(), Wanted { layers: self.stack.of_tree(), into: &self.stack.tree })?;
            self.state = Tree::Composed;
        }
        Ok(())
    }

    /// Returns the composed tree as the base of another one; `None` if nothing was composed.
    pub fn base(&self) -> Option<Base> {
        match &self.state {
            Tree::Composed => Some(self.stack.base()),
            Tree::Needed(older) => older.as_ref()?.base(),
        }
    }

    /// Returns the path of the layer with the files of other owners. Steps with the same list share it.
    pub fn owners_dir(&self) -> PathBuf {
        self.dir.join(format!("owners-{}", self.stack.owners_number()))
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

/// Composes a tree, of an older one if possible; returns the merge of its layers.
fn composed(ctx: &BuildContext<'_>, base: Option<&StepRoot>, wanted: Wanted<'_>) -> Result<Merged, Error> {
    let made = match base.and_then(StepRoot::base) {
        Some(base) => compose::recompose(ctx.store, ctx.lock, &base, wanted, &|_| {}),
        None => compose::compose(ctx.store, ctx.lock, wanted.layers, wanted.into, &|_| {}),
    };
    Ok(made.map_err(|source| Error::store("composing the step's root", source))?.merged)
}

impl Drop for StepRoot {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is swept by `silo gc`. The tree may be gone already, if another one was made of it.
            drop(reexec::reclaim_children(&self.program, &self.dir, "owners-"));
            drop(silo_store::removal::remove_tree(&self.dir));
        }
    }
}
