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
    /// These changes alone, as a person has seen them.
    Seen(Vec<Weighed>),
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
    /// The change is another one now.
    #[error("{path} changed again since you saw it, so nothing was decided", path = .0.display())]
    Changed(PathBuf),
}

/// Returns the indexes of the selected changes, and of new directories around them, in order.
pub fn choose(all: &[Weighed], choice: &Choice) -> Result<Vec<usize>, Error> {
    let seen: HashSet<&Path> = match choice {
        Choice::Seen(seen) => check_seen(all, seen)?,
        Choice::All | Choice::Safe | Choice::Paths(_) => HashSet::new(),
    };
    let is_chosen = |one: &Weighed| match choice {
        Choice::All => true,
        Choice::Safe => one.is_safe,
        Choice::Paths(paths) => paths.iter().any(|path| one.change.path.starts_with(path)),
        Choice::Seen(_) => seen.contains(one.change.path.as_path()),
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

/// Returns the paths of changes that are as a person has seen them.
fn check_seen<'a>(all: &[Weighed], seen: &'a [Weighed]) -> Result<HashSet<&'a Path>, Error> {
    // Changes have the order of paths.
    let now = |path: &Path| all.binary_search_by(|one| one.change.path.as_path().cmp(path)).ok().map(|index| &all[index]);
    let is_same = |one: &Weighed, now: &Weighed| {
        one.weight == now.weight && one.reason == now.reason && one.is_safe == now.is_safe && is_same_change(&one.change, &now.change)
    };
    match seen.iter().find(|one| !now(&one.change.path).is_some_and(|now| is_same(one, now))) {
        Some(changed) => Err(Error::Changed(changed.change.path.clone())),
        None => Ok(seen.iter().map(|one| one.change.path.as_path()).collect()),
    }
}

/// Compares two changes of a path. A directory is the same with other files in it.
fn is_same_change(one: &Change, other: &Change) -> bool {
    let state = |entry: &Option<crate::changes::Entry>| {
        entry.clone().map(|mut entry| {
            if entry.kind == Kind::Dir {
                (entry.size, entry.links, entry.changed) = (0, 0, 0);
            }
            entry
        })
    };
    let sides = |change: &Change| (change.what, state(&change.before), state(&change.after));
    sides(one) == sides(other)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::{Entry, What};
    use crate::weigh::Weight;

    fn one(path: &str, kind: Kind, changed: i128) -> Weighed {
        let after = Entry { kind, mode: 0o644, size: 3, links: 1, inode: 1, changed, target: None };
        let change = Change { path: path.into(), what: What::Added, before: None, after: Some(after), problem: None };
        Weighed { change, weight: Weight::Source, reason: None, conflict: None, top: None, is_safe: true }
    }

    #[test]
    fn only_changes_as_they_were_seen_are_chosen() {
        let all = [one("d", Kind::Dir, 1), one("d/a", Kind::File, 1), one("d/b", Kind::File, 1), one("e", Kind::File, 1)];
        let chosen = |seen: &[Weighed]| choose(&all, &Choice::Seen(seen.to_vec()));
        // With the directory around it, and without the other file in that.
        assert_eq!(chosen(&all[1..2]).expect("as seen"), [0, 1]);
        assert_eq!(chosen(&[one("d", Kind::Dir, 7)]).expect("as seen"), [0]);
        assert_eq!(chosen(&[]).expect("none"), [0; 0]);
        let obeyed = Weighed { weight: Weight::Obeyed, ..all[3].clone() };
        let mut replaced = all[3].clone();
        replaced.change.after.iter_mut().for_each(|after| after.inode = 2);
        for other in [one("e", Kind::File, 2), one("gone", Kind::File, 1), obeyed, replaced] {
            assert!(matches!(chosen(&[all[1].clone(), other]), Err(Error::Changed(_))));
        }
    }
}
