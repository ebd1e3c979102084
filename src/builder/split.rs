//! Splits the packages of a tier into two independent halves that are configured in parallel.
//!
//! Maintainer scripts run one after another on one processor, and many packages of a tier are independent. The split point is a package. It
//! and the packages that only it needs form one half; the other packages form the second half. Packages needed by both halves come first,
//! and packages that need the split point come last.
//!
//! Packages depend on each other by dependencies, by a trigger that one activates and another awaits or that both activate, and by debconf
//! questions, because debconf has one database. If two halves still change the same path, the second is configured on top of the first.

use std::collections::BTreeSet;
use std::sync::Arc;

use silo_store::entry::{Entry, Kind, Node};
use silo_store::index::Index;
use silo_store::path::LayerPath;

use super::select_packages::{Candidates, DEPENDS, Unpacked, dependencies, fires, providers};

/// Fewest files of packages with scripts in the smaller half. Scripts mostly process the files of their package; for fewer files a second
/// sandbox costs more than it saves.
const MIN_FILES: usize = 100;

/// dpkg files that are rewritten when the halves are merged.
const DATABASE: [&str; 2] = ["var/lib/dpkg/status", "var/lib/dpkg/triggers"];

/// A tier, split.
#[derive(Debug)]
pub(super) struct Parts {
    /// Packages configured before both halves.
    pub first: Candidates,
    /// The halves.
    pub halves: [Candidates; 2],
    /// Packages configured after both halves.
    pub last: Candidates,
}

/// Packages by index.
type Set = BTreeSet<usize>;

/// Splits the packages of a step, if the gain is large enough; `below` are the packages configured already.
pub(super) fn split(below: &[Arc<Unpacked>], choice: &Candidates) -> Option<Parts> {
    let packages = &choice.present;
    let work: Vec<usize> = packages.iter().map(work_of).collect();
    if !choice.by_dpkg.is_empty() || work.iter().sum::<usize>() < 2 * MIN_FILES {
        return None;
    }
    let providers = providers(packages);
    let needs: Vec<Vec<usize>> = packages.iter().map(|package| dependencies(&package.record, &providers, DEPENDS)).collect();
    let needed: Vec<Set> = (0..packages.len()).map(|package| reached(package, &needs)).collect();
    let bound = bound(below, packages);
    let sum = |set: &Set| set.iter().map(|package| work[*package]).sum::<usize>();
    let mut best: Option<(usize, [Set; 4])> = None;
    // A package in a dependency cycle cannot be a split point.
    let alone = |package: &usize| needed[*package].iter().all(|other| other == package || !needed[*other].contains(package));
    for package in (0..packages.len()).filter(|package| work[*package] > 0).filter(alone) {
        let sets = around(package, &needed, &bound);
        let gain = sum(&sets[1]).min(sum(&sets[2]));
        if gain >= MIN_FILES && best.as_ref().is_none_or(|(most, _)| gain > *most) {
            best = Some((gain, sets));
        }
    }
    let pick =
        |set: &Set| Candidates { present: set.iter().map(|package| Arc::clone(&packages[*package])).collect(), ..Candidates::default() };
    best.map(|(_, [first, one, other, last])| Parts { first: pick(&first), halves: [pick(&other), pick(&one)], last: pick(&last) })
}

/// Estimates the work of a package's scripts, as its number of files.
fn work_of(package: &Arc<Unpacked>) -> usize {
    let has_scripts = ["preinst", "postinst", "config"].iter().any(|script| package.record.members.contains(*script));
    if has_scripts { package.index.entries().iter().filter(|entry| entry.node.kind() == Kind::File).count() } else { 0 }
}

/// Returns a package and everything that it needs, transitively.
fn reached(package: usize, needs: &[Vec<usize>]) -> Set {
    let mut reached = Set::from([package]);
    let mut queue = vec![package];
    while let Some(next) = queue.pop() {
        queue.extend(needs[next].iter().filter(|needed| reached.insert(**needed)));
    }
    reached
}

/// Groups all packages around one: shared with the other half, needed by it alone, independent of it, dependent on it.
fn around(package: usize, needed: &[Set], bound: &[Set]) -> [Set; 4] {
    let all = 0..needed.len();
    let last: Set = all.clone().filter(|other| *other != package && needed[*other].contains(&package)).collect();
    let mut one = &needed[package] - &last;
    let mut other: Set = all.filter(|other| !one.contains(other) && !last.contains(other)).collect();
    let mut first = Set::new();
    let mut move_first = |which: Vec<usize>, one: &mut Set, other: &mut Set| {
        for moved in which.iter().flat_map(|which| &needed[*which]) {
            if one.remove(moved) || other.remove(moved) {
                first.insert(*moved);
            }
        }
    };
    let shared: Vec<usize> = one.iter().copied().filter(|one| other.iter().any(|other| needed[*other].contains(one))).collect();
    move_first(shared, &mut one, &mut other);
    for together in bound {
        if !together.is_disjoint(&one) {
            move_first(together.intersection(&other).copied().collect(), &mut one, &mut other);
        }
    }
    [first, one, other, last]
}

/// Lists sets of packages that must not be configured in parallel, although no dependency connects them.
fn bound(below: &[Arc<Unpacked>], packages: &[Arc<Unpacked>]) -> Vec<Set> {
    let asks = |package: &Arc<Unpacked>| ["config", "templates"].iter().any(|member| package.record.members.contains(*member));
    let mut sets = vec![(0..packages.len()).filter(|package| asks(&packages[*package])).collect::<Set>()];
    let interests = below.iter().chain(packages).flat_map(|package| &package.record.interests);
    let triggers: BTreeSet<&str> = interests.map(|interest| interest.trigger.as_str()).collect();
    for trigger in triggers {
        let concerns = |package: &Arc<Unpacked>| {
            let waits = package.record.interests.iter().any(|interest| interest.trigger == trigger);
            waits || package.record.activates.iter().any(|name| name == trigger) || trigger.starts_with('/') && fires(package, trigger)
        };
        sets.push((0..packages.len()).filter(|package| concerns(&packages[*package])).collect());
    }
    sets.retain(|set| set.len() > 1);
    sets
}

/// Returns a path that both halves changed in different ways, or that one half replaced while the other changed a path below it.
pub(super) fn contended(one: &Index, other: &Index) -> Option<LayerPath> {
    let clash = |entry: &Entry, other: &Index| {
        let differs = other.get(&entry.path).is_some_and(|same| same.meta != entry.meta || same.node != entry.node);
        let hides = !matches!(entry.node, Node::Dir { opaque: false });
        !of_database(&entry.path) && (differs || hides && !other.below(&entry.path).is_empty())
    };
    let clashes = |one: &Index, other: &Index| one.entries().iter().find(|entry| clash(entry, other)).map(|entry| entry.path.clone());
    clashes(one, other).or_else(|| clashes(other, one))
}

/// Returns true if the path is rewritten when the halves are merged.
fn of_database(path: &LayerPath) -> bool {
    let path = path.as_bytes();
    DATABASE.iter().any(|of| path.strip_prefix(of.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(numbers: &[usize]) -> Set {
        numbers.iter().copied().collect()
    }

    /// Package 1 needs 0, which is a library; 2 needs 1; 3 needs 0; 4 asks as 3 does; 5 needs 4; 6 needs 2 and 3.
    fn needs() -> Vec<Vec<usize>> {
        vec![vec![], vec![0], vec![1], vec![0], vec![], vec![4], vec![2, 3]]
    }

    #[test]
    fn shared_dependencies_come_first_and_joint_dependents_last() {
        let needs = needs();
        let needed: Vec<Set> = (0..needs.len()).map(|package| reached(package, &needs)).collect();
        assert_eq!(around(3, &needed, &[]), [set(&[0]), set(&[3]), set(&[1, 2, 4, 5]), set(&[6])]);
        assert_eq!(around(3, &needed, &[set(&[3, 4])]), [set(&[0, 4]), set(&[3]), set(&[1, 2, 5]), set(&[6])]);
        assert_eq!(around(2, &needed, &[]), [set(&[0]), set(&[1, 2]), set(&[3, 4, 5]), set(&[6])]);
        // Packages that belong together stay in one half, even if a half gets empty.
        assert_eq!(around(2, &needed, &[set(&[2, 3]), set(&[1, 5])]), [set(&[0, 3, 4, 5]), set(&[1, 2]), set(&[]), set(&[6])]);
    }

    #[test]
    fn halves_may_meet_in_directories_and_dpkgs_notes_only() {
        let index = |text: &str| Index::parse(format!("silo-index 1\n{text}").as_bytes()).expect("an index");
        let dir = "d 0755 0 0 ";
        let clash = |one: &str, other: &str| contended(&index(one), &index(other)).map(|path| path.to_string());
        let etc = format!("{dir}etc\n");
        let var = format!("{dir}var\n{dir}var/lib\n{dir}var/lib/dpkg\n");
        let link = |path: &str, to: &str| format!("l 0 0 {path} {to}\n");
        assert_eq!(clash(&format!("{etc}{}", link("etc/a", "x")), &format!("{etc}{}", link("etc/b", "x"))), None);
        assert_eq!(clash(&format!("{etc}{}", link("etc/a", "x")), &format!("{etc}{}", link("etc/a", "x"))), None);
        assert_eq!(clash(&format!("{etc}{}", link("etc/a", "x")), &format!("{etc}{}", link("etc/a", "y"))).as_deref(), Some("etc/a"));
        assert_eq!(clash(&etc, "d 0700 0 0 etc\n").as_deref(), Some("etc"));
        assert_eq!(clash(&etc, "w etc\n").as_deref(), Some("etc"));
        assert_eq!(clash(&format!("{etc}w etc/a\n"), &format!("{etc}{dir}etc/a\n{dir}etc/a/b\n")).as_deref(), Some("etc/a"));
        let status = |to: &str| format!("{var}{}", link("var/lib/dpkg/status", to));
        assert_eq!(clash(&status("x"), &status("y")), None);
    }
}
