//! Which packages take part in the configure step, and in which order.
//!
//! Packages without maintainer scripts or triggers change nothing when they are configured, so the step
//! sees only those with scripts, all that these depend on, and the essential ones. That is why a package
//! without scripts can be added to an image without running the step again. The choice is made from the
//! packages' layers alone, so equal layers give an equal step.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::DiGraph;
use silo_store::digest::LayerId;
use silo_store::entry::Kind;
use silo_store::index::Index;

use crate::unpack::record::Record;

/// A package of the image with the entries of its layer.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// What dpkg knows of it.
    pub record: Record,
    /// Its layer's entries.
    pub index: Index,
}

/// The packages of an image, sorted out.
#[derive(Debug, Default)]
pub struct Choice<'a> {
    /// Those in the configure step that are simply there, in the order of their preinst scripts.
    pub present: Vec<&'a Unpacked>,
    /// Those in the step whose files dpkg itself must unpack, in order.
    pub by_dpkg: Vec<&'a Unpacked>,
    /// Those that the step need not see, by name.
    pub plain: Vec<&'a Unpacked>,
}

impl Choice<'_> {
    /// The layers of the packages that are simply there, lowest first.
    ///
    /// dpkg leaves a directory as its first package made it, and among the packages of a fresh root that is
    /// base-files; later layers have the last word, so base-files lies on top.
    pub fn root_order(&self) -> Vec<LayerId> {
        let mut packages: Vec<&Record> = self.present.iter().map(|package| &package.record).collect();
        packages.sort_by_key(|record| (record.stanza.package() == "base-files", record.stanza.package()));
        packages.iter().map(|record| record.layer).collect()
    }
}

/// Sorts the packages of an image out.
pub fn choose(packages: &[Unpacked]) -> Choice<'_> {
    let providers = providers(packages);
    let mut wanted: BTreeSet<usize> = (0..packages.len()).filter(|i| has_scripts(&packages[*i].record)).collect();
    wanted.extend(triggering(packages));
    let overlapping = overlapping(packages);
    wanted.extend(&overlapping);
    let mut queue: Vec<usize> = wanted.iter().copied().collect();
    while let Some(next) = queue.pop() {
        for dependency in dependencies(&packages[next].record, &providers, true) {
            if wanted.insert(dependency) {
                queue.push(dependency);
            }
        }
    }
    let mut choice = Choice::default();
    for index in ordered(packages, &providers) {
        let package = &packages[index];
        if !wanted.contains(&index) {
            choice.plain.push(package);
        } else if overlapping.contains(&index) {
            choice.by_dpkg.push(package);
        } else {
            choice.present.push(package);
        }
    }
    choice.plain.sort_by(|a, b| a.record.stanza.package().cmp(b.record.stanza.package()));
    choice
}

fn has_scripts(record: &Record) -> bool {
    record.stanza.get("Essential") == Some("yes")
        || ["preinst", "postinst", "config", "triggers"].iter().any(|member| record.members.contains(*member))
}

/// Finds packages whose files lie below a path that some package waits for.
fn triggering(packages: &[Unpacked]) -> Vec<usize> {
    let waits: Vec<&str> =
        packages.iter().flat_map(|p| &p.record.interests).map(|i| i.trigger.as_str()).filter(|t| t.starts_with('/')).collect();
    let triggers = |path: &[u8]| {
        waits.iter().any(|wait| {
            let wait = wait[1..].trim_end_matches('/').as_bytes();
            path.strip_prefix(wait).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    };
    let fires = |package: &Unpacked| !waits.is_empty() && package.index.entries().iter().any(|entry| triggers(entry.path.as_bytes()));
    (0..packages.len()).filter(|i| fires(&packages[*i])).collect()
}

/// Finds packages that hold a file which another one, earlier by name or replaced by it, holds too.
///
/// Whose file it is then is for dpkg to say (Replaces, diversions), so it unpacks the later of the two.
fn overlapping(packages: &[Unpacked]) -> BTreeSet<usize> {
    let mut owner: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut later = BTreeSet::new();
    for (index, package) in packages.iter().enumerate() {
        for entry in package.index.entries().iter().filter(|entry| entry.node.kind() != Kind::Dir) {
            let Some(first) = owner.insert(entry.path.as_bytes(), index) else { continue };
            let name = package.record.stanza.package();
            let replaced_by_first = relation_names(packages[first].record.stanza.get("Replaces")).any(|replaced| replaced == name);
            later.insert(if replaced_by_first { first } else { index });
        }
    }
    later
}

fn providers(packages: &[Unpacked]) -> BTreeMap<&str, Vec<usize>> {
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
fn dependencies(record: &Record, providers: &BTreeMap<&str, Vec<usize>>, depends: bool) -> Vec<usize> {
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
fn ordered(packages: &[Unpacked], providers: &BTreeMap<&str, Vec<usize>>) -> Vec<usize> {
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
