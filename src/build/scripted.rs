//! Which packages take part in a configure step, and in which order.
//!
//! Packages without maintainer scripts or triggers change nothing when they are configured, so a step
//! sees only those with scripts, all that these depend on, and the essential ones. That is why a package
//! without scripts can be added to an image without running the step again. The choice is made from the
//! packages' layers alone, so equal layers give an equal step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use petgraph::graph::DiGraph;
use silo_store::digest::LayerId;
use silo_store::entry::Kind;
use silo_store::index::Index;

use crate::lock;
use crate::unpack::merged;
use crate::unpack::record::Record;

/// A package of the image with the entries of its layer.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// What dpkg knows of it.
    pub record: Record,
    /// Its layer's entries.
    pub index: Index,
    /// The file that it was unpacked of.
    pub source: lock::Package,
    /// Seconds since 1970 of the index that named the file.
    pub epoch: i64,
}

impl Unpacked {
    /// Returns its name.
    pub fn name(&self) -> &str {
        self.record.stanza.package()
    }
}

/// What the tiers before have left.
#[derive(Clone, Copy, Debug)]
pub struct Below<'a> {
    /// The packages that took part.
    pub present: &'a [Arc<Unpacked>],
    /// What their scripts changed.
    pub changes: &'a [Arc<Index>],
    /// The paths that a package diverted, with that package.
    pub diverted: &'a BTreeMap<Vec<u8>, String>,
}

/// The packages of a tier, and those that no tier before needed, sorted out.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Those in the configure step that are simply there, in the order of their preinst scripts.
    pub present: Vec<Arc<Unpacked>>,
    /// Those in the step whose files dpkg itself must unpack, in order.
    pub by_dpkg: Vec<Arc<Unpacked>>,
    /// Those that the step need not see, by name.
    pub plain: Vec<Arc<Unpacked>>,
}

/// Orders the layers of packages that are simply there, lowest first.
///
/// dpkg leaves a directory as its first package made it, and among the packages of a fresh root that is
/// base-files; later layers have the last word, so base-files lies on top.
pub fn root_order(present: &[Arc<Unpacked>]) -> Vec<LayerId> {
    let mut records: Vec<&Record> = present.iter().map(|package| &package.record).collect();
    records.sort_by_key(|record| (record.stanza.package() == "base-files", record.stanza.package()));
    records.iter().map(|record| record.layer).collect()
}

/// Sorts out the packages of a tier, and those of earlier tiers that took no part so far.
pub fn choose(below: &Below<'_>, candidates: &[Arc<Unpacked>]) -> Choice {
    let mut packages: Vec<Arc<Unpacked>> = below.present.to_vec();
    let first = packages.len();
    packages.extend(candidates.iter().cloned());
    packages[first..].sort_by(|a, b| a.name().cmp(b.name()));
    let providers = providers(&packages);
    let is_candidate = |index: &usize| *index >= first;
    let mut wanted: BTreeSet<usize> = (first..packages.len()).filter(|i| has_scripts(&packages[*i].record)).collect();
    wanted.extend(triggering(&packages).into_iter().filter(is_candidate));
    let overlapping = overlapping(&packages, first, below);
    wanted.extend(&overlapping);
    let mut queue: Vec<usize> = wanted.iter().copied().collect();
    while let Some(next) = queue.pop() {
        for dependency in dependencies(&packages[next].record, &providers, true) {
            if is_candidate(&dependency) && wanted.insert(dependency) {
                queue.push(dependency);
            }
        }
    }
    let mut choice = Choice::default();
    for index in ordered(&packages, &providers).into_iter().filter(is_candidate) {
        let package = Arc::clone(&packages[index]);
        if !wanted.contains(&index) {
            choice.plain.push(package);
        } else if overlapping.contains(&index) {
            choice.by_dpkg.push(package);
        } else {
            choice.present.push(package);
        }
    }
    choice.plain.sort_by(|a, b| a.name().cmp(b.name()));
    choice
}

fn has_scripts(record: &Record) -> bool {
    record.stanza.get("Essential") == Some("yes")
        || ["preinst", "postinst", "config", "triggers"].iter().any(|member| record.members.contains(*member))
}

/// Returns the paths that packages wait for, without the slash before them, with each package that waits.
pub fn awaited_paths(packages: &[Arc<Unpacked>]) -> Vec<&str> {
    packages.iter().flat_map(|p| &p.record.interests).map(|i| i.trigger.as_str()).filter(|t| t.starts_with('/')).collect()
}

/// Says whether a package has a file below a path that some package waits for.
pub fn fires(package: &Unpacked, awaited: &str) -> bool {
    let awaited = merged::place(awaited.trim_matches('/').as_bytes(), true);
    package.index.entries().iter().any(|entry| {
        let rest = entry.path.as_bytes().strip_prefix(awaited.as_slice());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// Finds packages whose files lie below a path that some package waits for.
fn triggering(packages: &[Arc<Unpacked>]) -> Vec<usize> {
    let awaited = awaited_paths(packages);
    (0..packages.len()).filter(|i| awaited.iter().any(|path| fires(&packages[*i], path))).collect()
}

/// Finds candidates (those from `first` on) that contend for a path: another package holds it too, a script has made it,
/// it was diverted, or the package's own preinst clears it away before the files come.
///
/// Whose file it is then is for dpkg to say (Replaces, diversions), so it unpacks the later of the two.
fn overlapping(packages: &[Arc<Unpacked>], first: usize, below: &Below<'_>) -> BTreeSet<usize> {
    let mut owner: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut later = BTreeSet::new();
    for (index, package) in packages.iter().enumerate() {
        if package.record.swept.iter().any(|path| fires(package, path)) {
            later.insert(index);
        }
        for entry in package.index.entries().iter().filter(|entry| entry.node.kind() != Kind::Dir) {
            let path = entry.path.as_bytes();
            if index >= first {
                let made =
                    || below.changes.iter().any(|changes| changes.get(&entry.path).is_some_and(|made| made.node.kind() != Kind::Dir));
                let diverted = || below.diverted.get(path).is_some_and(|by| by != package.name());
                if made() || diverted() {
                    later.insert(index);
                }
            }
            let Some(other) = owner.insert(path, index) else { continue };
            let name = package.name();
            let replaced = relation_names(packages[other].record.stanza.get("Replaces")).any(|replaced| replaced == name);
            later.insert(if replaced && other >= first { other } else { index });
        }
    }
    later.retain(|index| *index >= first);
    later
}

pub(super) fn providers(packages: &[Arc<Unpacked>]) -> BTreeMap<&str, Vec<usize>> {
    let mut providers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, package) in packages.iter().enumerate() {
        let stanza = &package.record.stanza;
        for name in relation_names(stanza.get("Provides")).chain([stanza.package()]) {
            providers.entry(name).or_default().push(index);
        }
    }
    providers
}

/// Lists the packages that one depends on; of alternatives, every one that is there.
pub(super) fn dependencies(record: &Record, providers: &BTreeMap<&str, Vec<usize>>, depends: bool) -> Vec<usize> {
    let fields = ["Pre-Depends", "Depends"];
    let fields = &fields[..if depends { 2 } else { 1 }];
    let names = fields.iter().flat_map(|field| relation_names(record.stanza.get(field)));
    names.filter_map(|name| providers.get(name)).flatten().copied().collect()
}

/// Lists the package names of a relation field, without versions, architectures and grouping.
fn relation_names(field: Option<&str>) -> impl Iterator<Item = &str> {
    let parts = field.unwrap_or_default().split([',', '|']);
    parts.filter_map(|part| part.trim().split([' ', '(', '[', ':', '<']).next()).filter(|name| !name.is_empty())
}

/// Orders packages as their preinst scripts run: what is pre-depended on first, else by name.
///
/// base-passwd leads, because its preinst writes the user database that chown needs (debootstrap and
/// mmdebstrap do the same).
fn ordered(packages: &[Arc<Unpacked>], providers: &BTreeMap<&str, Vec<usize>>) -> Vec<usize> {
    let mut graph = DiGraph::<usize, ()>::new();
    let nodes: Vec<_> = (0..packages.len()).map(|index| graph.add_node(index)).collect();
    for (index, package) in packages.iter().enumerate() {
        for dependency in dependencies(&package.record, providers, false) {
            graph.add_edge(nodes[index], nodes[dependency], ());
        }
    }
    // Strongly connected components come with what they point to first, which is the order wanted.
    let mut order: Vec<usize> = Vec::new();
    for mut component in petgraph::algo::tarjan_scc(&graph) {
        component.sort();
        order.extend(component.iter().map(|node| graph[*node]));
    }
    order.sort_by_key(|index| packages[*index].record.stanza.package() != "base-passwd");
    order
}

#[cfg(test)]
mod tests {
    use super::relation_names;

    #[test]
    fn relations_name_packages() {
        let got: Vec<&str> = relation_names(Some("libc6 (>= 2.4), a:any | b [amd64], c <!x>,\n d")).collect();
        assert_eq!(got, ["libc6", "a", "b", "c", "d"]);
        assert_eq!(relation_names(None).count(), 0);
    }
}
