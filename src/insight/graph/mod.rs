//! How an image was made, as a graph: packages, steps, image.
//!
//! The graph is read off the layers' manifests alone. A layer whose inputs are no layers of the image is a package (or
//! something else that was only unpacked); any other is a step. Packages that the same steps were made of stand together
//! in one part, and of the arrows only those are kept that no longer way says already.

pub mod layout;

pub mod svg;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::LayerId;
use silo_store::manifest::Manifest;

use super::figures;
use super::inside::Inside;

/// How an image was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// What it is a graph of, such as `python 3.13.5`.
    pub title: String,
    /// The figures of the whole, on one line.
    pub summary: String,
    /// The parts; the image is the last.
    pub parts: Vec<Part>,
    /// Which part each was made of, as `(of, made)`, sorted.
    pub arrows: Vec<(usize, usize)>,
}

/// A box of the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: Kind,
    /// Its heading.
    pub title: String,
    /// Figures and names, a line each.
    pub lines: Vec<String>,
    /// Its packages, by name; none in a step.
    pub packages: Vec<Packed>,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Layers that were unpacked.
    Packages,
    /// A layer that a step made of others.
    Step,
    /// All layers together.
    Image,
}

/// A package in a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The bytes of its layer.
    pub bytes: u64,
}

/// What stands in the picture about the image itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The tool and its version, or the image's id.
    pub title: String,
    /// The image's id.
    pub image: String,
    /// The architecture.
    pub arch: String,
    /// The program and its first arguments.
    pub command: String,
}

/// Returns what stands in the picture about an image.
pub fn head(inside: &Inside) -> Head {
    let image = &inside.image;
    Head { title: inside.title(), image: inside.id.to_string(), arch: image.arch.to_string(), command: image.command.join(" ") }
}

/// Makes the graph of an image from where its layers came from, lowest first.
pub fn graph(head: &Head, layers: &[Manifest]) -> Graph {
    let consumers = consumers(layers);
    let mut parts = Vec::new();
    // For each layer the part that it is in.
    let mut part_of = vec![0; layers.len()];
    for group in groups(layers, &consumers) {
        for layer in &group {
            part_of[*layer] = parts.len();
        }
        parts.push(packages(&group.iter().map(|layer| &layers[*layer]).collect::<Vec<_>>()));
    }
    for (number, layer) in layers.iter().enumerate().filter(|(number, _)| is_step(layers, *number)) {
        part_of[number] = parts.len();
        parts.push(step(layer));
    }
    let mut arrows = BTreeSet::new();
    for (from, to) in consumers.iter().enumerate().flat_map(|(from, all)| all.iter().map(move |to| (from, *to))) {
        arrows.insert((part_of[from], part_of[to]));
    }
    arrows.extend((0..parts.len()).map(|part| (part, parts.len())));
    let count = layers.iter().map(|layer| layer.record.packages.len()).sum();
    let bytes = figures::bytes(layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.bytes)));
    let contents = format!("{} in {}", figures::count(count, "package", "packages"), figures::count(layers.len(), "layer", "layers"));
    parts.push(Part {
        kind: Kind::Image,
        title: head.title.clone(),
        lines: vec![contents.clone(), bytes.clone(), format!("runs {}", head.command), format!("image {:.12}", head.image)],
        packages: Vec::new(),
    });
    Graph {
        title: format!("How {} is made", head.title),
        summary: format!("image {:.12} · {} · {contents} · {bytes}", head.image, head.arch),
        arrows: reduced(parts.len(), &arrows),
        parts,
    }
}

/// For each layer, which later layers were made of it. A layer is only ever made of those below it, so there is no circle.
fn consumers(layers: &[Manifest]) -> Vec<BTreeSet<usize>> {
    let numbers: BTreeMap<String, usize> = layers.iter().enumerate().map(|(number, layer)| (layer.layer.to_string(), number)).collect();
    let mut consumers = vec![BTreeSet::new(); layers.len()];
    for (to, layer) in layers.iter().enumerate() {
        for from in layer.record.inputs.iter().filter_map(|input| numbers.get(input)).filter(|from| **from < to) {
            consumers[*from].insert(to);
        }
    }
    consumers
}

fn is_step(layers: &[Manifest], number: usize) -> bool {
    let below: Vec<LayerId> = layers[..number].iter().map(|layer| layer.layer).collect();
    layers[number].record.inputs.iter().any(|input| below.iter().any(|layer| layer.to_string() == *input))
}

/// Groups the layers that are no steps by what was made of them, the most used first.
fn groups(layers: &[Manifest], consumers: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<&BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
    for (number, all) in consumers.iter().enumerate().filter(|(number, _)| !is_step(layers, *number)) {
        groups.entry(all).or_default().push(number);
    }
    let mut groups: Vec<(&BTreeSet<usize>, Vec<usize>)> = groups.into_iter().collect();
    groups.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(b.0)));
    groups.into_iter().map(|(_, group)| group).collect()
}

fn packages(layers: &[&Manifest]) -> Part {
    let mut packages: Vec<Packed> = Vec::new();
    for layer in layers {
        let bytes = if layer.record.packages.len() == 1 { layer.bytes } else { 0 };
        packages.extend(layer.record.packages.iter().map(|package| {
            let (name, version) = package.split_once(' ').unwrap_or((package, ""));
            Packed { name: name.to_owned(), version: version.to_owned(), bytes }
        }));
    }
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    let bytes = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.bytes));
    let ms = layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.record.duration_ms));
    let title = match (packages.len(), layers) {
        // What came without packages is called as its layer is.
        (0, [layer]) => figures::name(&layer.record.name),
        (0, _) => figures::count(layers.len(), "layer", "layers"),
        (count, _) => figures::count(count, "package", "packages"),
    };
    Part {
        kind: Kind::Packages,
        title,
        lines: vec![format!("{} · unpacked in {}", figures::bytes(bytes), figures::duration(ms))],
        packages,
    }
}

fn step(layer: &Manifest) -> Part {
    let record = &layer.record;
    let mut lines = vec![
        format!("{} in {} · took {}", figures::bytes(layer.bytes), entries(layer.entries), figures::duration(record.duration_ms)),
        format!("layer {:.12}", layer.layer.to_string()),
        format!("derivation {:.12}", record.derivation),
    ];
    if !record.packages.is_empty() {
        lines.insert(0, figures::one_line(&record.packages.join(", ")));
    }
    Part { kind: Kind::Step, title: figures::name(&record.name), lines, packages: Vec::new() }
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// Drops the arrows that a longer way says already. Every arrow leads to a part further on in some order without circles.
fn reduced(parts: usize, arrows: &BTreeSet<(usize, usize)>) -> Vec<(usize, usize)> {
    let next = |from: usize| arrows.range((from, 0)..(from + 1, 0)).map(|(_, to)| *to);
    let reach = |from: usize| {
        let mut seen = vec![false; parts];
        let mut queue: Vec<usize> = next(from).collect();
        while let Some(at) = queue.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                queue.extend(next(at));
            }
        }
        seen
    };
    let reached: Vec<Vec<bool>> = (0..parts).map(reach).collect();
    let direct = |(from, to): &&(usize, usize)| !next(*from).any(|between| between != *to && reached[between][*to]);
    arrows.iter().filter(direct).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_image_is_a_graph_too() {
        let head = Head { title: "x".to_owned(), image: String::new(), arch: String::new(), command: String::new() };
        let graph = graph(&head, &[]);
        assert_eq!((graph.parts.len(), graph.arrows.len()), (1, 0));
        assert!(svg::write(&graph).starts_with("<svg"));
    }
}
