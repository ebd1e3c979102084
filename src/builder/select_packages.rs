//! Selects and orders the packages that take part in a configure step.
//!
//! Configuring a package without maintainer scripts or triggers changes nothing. So a step sees only the packages with scripts, all their
//! dependencies, and the essential packages. That is why adding a package without scripts to an image does not run the step again. The
//! selection depends on the packages' layers alone, so equal layers give an equal step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use petgraph::graph::DiGraph;
use silo_store::digest::LayerId;
use silo_store::entry::Kind;
use silo_store::index::Index;
use silo_store::path::LayerPath;

use silo_base::system::Arch;
use silo_fetch::unpack::record::Record;
use silo_fetch::unpack::usr_merge;
use silo_model::lock;

/// A package of the image, with the index of its layer.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The package's record for dpkg.
    pub record: Record,
    /// Architecture of the root.
    pub arch: Arch,
    /// The index of its layer.
    pub index: Index,
    /// The package's entry in the lock.
    pub source: lock::Package,
    /// Time of the package index that listed the file, in seconds since 1970.
    pub epoch: i64,
}

impl Unpacked {
    /// Returns the package's name.
    pub fn name(&self) -> &str {
        self.record.stanza.package()
    }

    /// Returns the package's architecture, if it is not the root's own.
    pub fn foreign(&self) -> Option<&str> {
        self.record.stanza.foreign(self.arch.name())
    }

    /// Returns the package's name as in the lock: with its architecture, if foreign.
    pub fn label(&self) -> String {
        self.record.stanza.label(self.arch.name())
    }

    /// Returns the order of packages: by name, the root's own architecture first.
    fn order(&self) -> (&str, Option<&str>) {
        (self.name(), self.foreign())
    }
}

/// Lists the foreign architectures of packages, sorted.
pub fn foreign<'a>(packages: impl IntoIterator<Item = &'a Arc<Unpacked>>) -> BTreeSet<&'a str> {
    packages.into_iter().filter_map(|package| package.foreign()).collect()
}

/// State after the earlier tiers.
#[derive(Clone, Copy, Debug)]
pub struct EarlierTiers<'a> {
    /// The packages that took part.
    pub present: &'a [Arc<Unpacked>],
    /// The changes made by their scripts.
    pub changes: &'a [Arc<Index>],
    /// The diverted paths, each with the diverting package.
    pub diverted: &'a BTreeMap<Vec<u8>, String>,
}

/// The candidates of a tier, sorted by their part in its configure step.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    /// Packages in the step whose layers are used directly, in the order of their preinst scripts.
    pub present: Vec<Arc<Unpacked>>,
    /// Packages in the step that dpkg itself must unpack, in order.
    pub by_dpkg: Vec<Arc<Unpacked>>,
    /// Packages that the step does not need, by name.
    pub plain: Vec<Arc<Unpacked>>,
}

/// Orders the layers of unpacked packages, lowest first.
///
/// dpkg keeps a directory's metadata from the first package that ships it, which in a fresh root is base-files. The topmost layer wins, so
/// base-files goes on top.
pub fn root_order(present: &[Arc<Unpacked>]) -> Vec<LayerId> {
    let mut packages: Vec<&Arc<Unpacked>> = present.iter().collect();
    packages.sort_by_cached_key(|package| (package.name() == "base-files", package.order()));
    packages.iter().map(|package| package.record.layer).collect()
}

/// Sorts the packages of a tier, and those of earlier tiers that took no part so far.
pub fn choose(below: &EarlierTiers<'_>, candidates: &[Arc<Unpacked>]) -> Candidates {
    let mut packages: Vec<Arc<Unpacked>> = below.present.to_vec();
    let first = packages.len();
    packages.extend(candidates.iter().cloned());
    packages[first..].sort_by(|a, b| a.order().cmp(&b.order()));
    let providers = providers(&packages);
    let is_candidate = |index: &usize| *index >= first;
    let mut wanted: BTreeSet<usize> = (first..packages.len()).filter(|i| has_scripts(&packages[*i].record)).collect();
    wanted.extend(triggering(&packages).into_iter().filter(is_candidate));
    let overlapping = overlapping(&packages, first, below);
    wanted.extend(&overlapping);
    let mut queue: Vec<usize> = wanted.iter().copied().collect();
    while let Some(next) = queue.pop() {
        for dependency in dependencies(&packages[next].record, &providers, DEPENDS) {
            if is_candidate(&dependency) && wanted.insert(dependency) {
                queue.push(dependency);
            }
        }
    }
    let mut choice = Candidates::default();
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
    choice.plain.sort_by(|a, b| a.order().cmp(&b.order()));
    choice
}

fn has_scripts(record: &Record) -> bool {
    record.stanza.get("Essential") == Some("yes")
        || ["preinst", "postinst", "config", "triggers"].iter().any(|member| record.members.contains(*member))
}

/// Returns the paths of all file triggers that packages await, with duplicates.
pub fn awaited_paths(packages: &[Arc<Unpacked>]) -> Vec<&str> {
    packages.iter().flat_map(|p| &p.record.interests).map(|i| i.trigger.as_str()).filter(|t| t.starts_with('/')).collect()
}

/// Returns true if a package has a file below the path of an awaited file trigger.
pub fn fires(package: &Unpacked, awaited: &str) -> bool {
    let awaited = usr_merge::place_of_dir(awaited.trim_matches('/').as_bytes());
    package.index.entries().iter().any(|entry| {
        let rest = entry.path.as_bytes().strip_prefix(awaited.as_slice());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// Finds packages that activate a file trigger of some package.
fn triggering(packages: &[Arc<Unpacked>]) -> Vec<usize> {
    let awaited = awaited_paths(packages);
    (0..packages.len()).filter(|i| awaited.iter().any(|path| fires(&packages[*i], path))).collect()
}

/// Finds candidates (from `first` on) with a contested path: another package ships it too, a script made it, it was diverted, or the
/// package's own preinst removes it before unpacking.
///
/// dpkg must decide the owner of such a path (Replaces, diversions), so dpkg unpacks the later of the two packages. A file that instances of
/// one package for several architectures share is not contested.
fn overlapping(packages: &[Arc<Unpacked>], first: usize, below: &EarlierTiers<'_>) -> BTreeSet<usize> {
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
            if is_shared(package, &packages[other], &entry.path) {
                continue;
            }
            let name = package.name();
            let replaced = relation_names(packages[other].record.stanza.get("Replaces")).any(|replaced| replaced == name);
            later.insert(if replaced && other >= first { other } else { index });
        }
    }
    later.retain(|index| *index >= first);
    later
}

/// Returns true if two packages are instances of one for several architectures, with the same file at a path, as dpkg demands.
fn is_shared(one: &Unpacked, other: &Unpacked, path: &LayerPath) -> bool {
    let is_instance = |package: &Unpacked| package.record.stanza.get("Multi-Arch") == Some("same");
    let version = |package: &Unpacked| package.record.stanza.get("Version").map(str::to_owned);
    let file =
        |package: &Unpacked| package.index.resolve(path).map(|entry| (entry.node.clone(), entry.meta.mode, entry.meta.uid, entry.meta.gid));
    let are_twins = one.name() == other.name() && is_instance(one) && is_instance(other) && version(one) == version(other);
    are_twins && file(one).is_some() && file(one) == file(other)
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

/// The fields with packages that must be configured before a package is unpacked.
const PRE_DEPENDS: &[&str] = &["Pre-Depends"];
/// The fields with packages that must be configured before a package is.
pub(super) const DEPENDS: &[&str] = &["Pre-Depends", "Depends"];

/// Lists the dependencies of a package in these fields; of alternatives, all that are present.
pub(super) fn dependencies(record: &Record, providers: &BTreeMap<&str, Vec<usize>>, fields: &[&str]) -> Vec<usize> {
    let names = fields.iter().flat_map(|field| relation_names(record.stanza.get(field)));
    names.filter_map(|name| providers.get(name)).flatten().copied().collect()
}

/// Lists the package names of a relation field, without versions, architectures and grouping.
fn relation_names(field: Option<&str>) -> impl Iterator<Item = &str> {
    let parts = field.unwrap_or_default().split([',', '|']);
    parts.filter_map(|part| part.trim().split([' ', '(', '[', ':', '<']).next()).filter(|name| !name.is_empty())
}

/// Orders packages for their preinst scripts: pre-dependencies first, else by name.
///
/// base-passwd is the first, because its preinst writes the user database that chown needs (debootstrap and mmdebstrap do the same).
fn ordered(packages: &[Arc<Unpacked>], providers: &BTreeMap<&str, Vec<usize>>) -> Vec<usize> {
    let mut graph = DiGraph::<usize, ()>::new();
    let nodes: Vec<_> = (0..packages.len()).map(|index| graph.add_node(index)).collect();
    for (index, package) in packages.iter().enumerate() {
        for dependency in dependencies(&package.record, providers, PRE_DEPENDS) {
            graph.add_edge(nodes[index], nodes[dependency], ());
        }
    }
    // Tarjan's algorithm returns a component after the components that it points to, which is the required order.
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
