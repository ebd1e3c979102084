//! A tier in two halves that are configured side by side, because neither needs the other.
//!
//! Scripts run one after another on one processor, and of a tier's packages many have nothing to do with each other. What
//! has no scripts and is needed by both comes first; then the largest set of packages that hang together is one half and
//! all others are the other. What hangs together is said by the packages: who depends on whom, who waits for whose triggers
//! or sets off the same, who asks through debconf. Should two halves change the same path all the same, the second is
//! configured on top of the first instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use silo_store::entry::{Kind, Node};
use silo_store::index::Index;
use silo_store::path::LayerPath;

use super::scripted::{Choice, Unpacked, dependencies, fires, providers};

/// Fewest packages with scripts in the smaller half; for fewer a second sandbox is not worth its start.
const MIN_SCRIPTED: usize = 4;

/// Where dpkg notes what is written anew when the halves are put together.
const DATABASE: [&str; 2] = ["var/lib/dpkg/status", "var/lib/dpkg/triggers"];

/// A tier, taken apart.
#[derive(Debug)]
pub(super) struct Halves {
    /// What comes before both.
    pub first: Choice,
    /// The halves.
    pub halves: [Choice; 2],
}

/// Takes the packages of a step apart, if there are two halves worth it; `below` are those that are configured already.
pub(super) fn split(below: &[Arc<Unpacked>], choice: &Choice) -> Option<Halves> {
    let packages = &choice.present;
    if !choice.by_dpkg.is_empty() || packages.iter().filter(|package| has_scripts(package)).count() < 2 * MIN_SCRIPTED {
        return None;
    }
    let providers = providers(packages);
    let needs: Vec<Vec<usize>> = packages.iter().map(|package| dependencies(&package.record, &providers, true)).collect();
    let first = first(packages, &needs);
    let mut sets = Sets::new(packages.len());
    for (package, needed) in needs.iter().enumerate().filter(|(package, _)| !first.contains(package)) {
        needed.iter().filter(|needed| !first.contains(needed)).for_each(|needed| sets.join(package, *needed));
    }
    for together in bound(below, packages) {
        let mut members = together.into_iter().filter(|package| !first.contains(package));
        if let Some(one) = members.next() {
            members.for_each(|other| sets.join(one, other));
        }
    }
    let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for package in (0..packages.len()).filter(|package| !first.contains(package)) {
        parts.entry(sets.find(package)).or_default().push(package);
    }
    let largest = parts.into_values().max_by_key(|part| (part.len(), std::cmp::Reverse(part[0])))?;
    let pick = |which: &dyn Fn(usize) -> bool| Choice {
        present: packages.iter().enumerate().filter(|(package, _)| which(*package)).map(|(_, package)| Arc::clone(package)).collect(),
        ..Choice::default()
    };
    let halves = [
        pick(&|package| largest.contains(&package)),
        pick(&|package| !first.contains(&package) && !largest.contains(&package)),
    ];
    let worth = halves.iter().all(|half| half.present.iter().filter(|package| has_scripts(package)).count() >= MIN_SCRIPTED);
    worth.then(|| Halves { first: pick(&|package| first.contains(&package)), halves })
}

/// Returns the packages that run nothing of their own and need only such ones.
fn first(packages: &[Arc<Unpacked>], needs: &[Vec<usize>]) -> BTreeSet<usize> {
    let mut first: BTreeSet<usize> = (0..packages.len()).filter(|package| !has_scripts(&packages[*package])).collect();
    loop {
        let out: Vec<usize> =
            first.iter().copied().filter(|package| needs[*package].iter().any(|needed| !first.contains(needed))).collect();
        if out.is_empty() {
            return first;
        }
        first.retain(|package| !out.contains(package));
    }
}

fn has_scripts(package: &Arc<Unpacked>) -> bool {
    !package.record.interests.is_empty() || ["preinst", "postinst", "config"].iter().any(|script| package.record.members.contains(*script))
}

/// Lists sets of packages that belong together although none depends on another.
fn bound(below: &[Arc<Unpacked>], packages: &[Arc<Unpacked>]) -> Vec<Vec<usize>> {
    // debconf has one database.
    let asks = |package: &Arc<Unpacked>| ["config", "templates"].iter().any(|member| package.record.members.contains(*member));
    let mut sets = vec![(0..packages.len()).filter(|package| asks(&packages[*package])).collect()];
    let interests = below.iter().chain(packages).flat_map(|package| &package.record.interests);
    let triggers: BTreeSet<&str> = interests.map(|interest| interest.trigger.as_str()).collect();
    for trigger in triggers {
        let concerns = |package: &Arc<Unpacked>| {
            let waits = package.record.interests.iter().any(|interest| interest.trigger == trigger);
            waits || package.record.activates.iter().any(|name| name == trigger) || trigger.starts_with('/') && fires(package, trigger)
        };
        sets.push((0..packages.len()).filter(|package| concerns(&packages[*package])).collect());
    }
    sets
}

/// Disjoint sets of numbers.
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Sets {
        Sets((0..count).collect())
    }

    fn find(&self, of: usize) -> usize {
        let mut at = of;
        while self.0[at] != at {
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        // The smallest number leads, so that a set has one name.
        self.0[one.max(other)] = one.min(other);
    }
}

/// Returns a path that both halves changed, each its own way, or that one took from under the other.
pub(super) fn contended(one: &Index, other: &Index) -> Option<LayerPath> {
    let clash = |entry: &&silo_store::entry::Entry, other: &Index| {
        let both = other.get(&entry.path).is_some_and(|same| same.meta != entry.meta || same.node != entry.node);
        let hides = matches!(entry.node, Node::Whiteout | Node::Dir { opaque: true }) || entry.node.kind() != Kind::Dir;
        !of_database(&entry.path) && (both || hides && !other.below(&entry.path).is_empty())
    };
    let mut found = one.entries().iter().filter(|entry| clash(entry, other)).chain(other.entries().iter().filter(|entry| clash(entry, one)));
    found.next().map(|entry| entry.path.clone())
}

/// Says whether a path is written anew when halves are put together.
fn of_database(path: &LayerPath) -> bool {
    let path = path.as_bytes();
    DATABASE.iter().any(|of| path.strip_prefix(of.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
}
