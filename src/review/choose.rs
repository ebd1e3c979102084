//! Selects the changes of a decision.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use silo_guard::git::dir_fd::Kind;

use crate::changes::Change;
use crate::weigh::Weighed;

/// The changes that a person decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All changes.
    All,
    /// Changes that nothing on this machine executes by itself.
    Safe,
    /// Changes of these paths, and of everything below them.
    Paths(Vec<PathBuf>),
}

/// Reason why a path selects nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no change.
    #[error("there is no change of {path}", path = .0.display())]
    Nothing(PathBuf),
    /// A directory changes as a whole.
    #[error("{path} is part of {dir}, which is removed as a whole", path = .0.display(), dir = .1.display())]
    Part(PathBuf, PathBuf),
}

/// Returns the indexes of the selected changes, and of new directories around them, in order.
pub fn choose(all: &[Weighed], choice: &Choice) -> Result<Vec<usize>, Error> {
    let is_chosen = |one: &Weighed| match choice {
        Choice::All => true,
        Choice::Safe => one.is_safe,
        Choice::Paths(paths) => paths.iter().any(|path| one.change.path.starts_with(path)),
    };
    if let Choice::Paths(paths) = choice {
        for path in paths {
            check(all, path)?;
        }
    }
    let mut chosen: Vec<usize> = (0..all.len()).filter(|index| is_chosen(&all[*index])).collect();
    let dirs: HashSet<&Path> = chosen.iter().flat_map(|index| all[*index].change.path.ancestors().skip(1)).collect();
    chosen.extend((0..all.len()).filter(|index| makes_dir(&all[*index].change) && dirs.contains(all[*index].change.path.as_path())));
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

fn check(all: &[Weighed], path: &Path) -> Result<(), Error> {
    if all.iter().any(|one| one.change.path.starts_with(path)) {
        return Ok(());
    }
    let outer = all.iter().map(|one| &one.change).find(|change| path.starts_with(&change.path) && !makes_dir(change));
    Err(match outer {
        Some(outer) => Error::Part(path.to_owned(), outer.path.clone()),
        None => Error::Nothing(path.to_owned()),
    })
}

/// True if the change puts a directory where there was none.
pub fn makes_dir(change: &Change) -> bool {
    let is_dir = |entry: &crate::changes::Entry| entry.kind == Kind::Dir;
    change.after.as_ref().is_some_and(is_dir) && !change.before.as_ref().is_some_and(is_dir)
}
