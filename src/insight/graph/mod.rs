//! The build graph of an image: packages, steps, image.
//!
//! The graph is derived from the layers' manifests alone. A layer whose inputs are not layers of the image is a package, or something else
//! that was only unpacked. Every other layer is a step. Packages with the same dependents are grouped in one part. Arrows that follow from
//! a longer path are omitted.

pub mod layout;

pub mod svg;
pub mod text_formats;

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::LayerId;
use silo_store::manifest::Manifest;

use super::display;
use super::image_view::ImageView;

/// The build graph of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// The title, such as `python 3.13.5`.
    pub title: String,
    /// Totals, on one line.
    pub summary: String,
    /// The parts; the image is the last.
    pub parts: Vec<Part>,
    /// The inputs of the parts, as sorted pairs `(of, made)`.
    pub arrows: Vec<(usize, usize)>,
}

/// A box of the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its kind.
    pub kind: Kind,
    /// Its heading.
    pub title: String,
    /// Sizes and names, a line each.
    pub lines: Vec<String>,
    /// Its packages, by name; empty for a step.
    pub packages: Vec<Packed>,
}

/// The kind of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Unpacked layers.
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
    /// The size of its layer in bytes.
    pub bytes: u64,
}

/// Properties of the image shown in the picture.
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

/// Returns the properties of an image for the picture.
pub fn head(inside: &ImageView) -> Head {
    let image = &inside.image;
    Head { title: inside.title(), image: inside.id.to_string(), arch: image.arch.to_string(), command: image.command.join(" ") }
}

/// Makes the graph of an image from its layers' manifests, lowest first.
pub fn graph(head: &Head, layers: &[Manifest]) -> Graph {
    let consumers = consumers(layers);
    let mut parts = Vec::new();
    // The part of each layer.
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
    let bytes = display::bytes(layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.bytes)));
    let contents = format!("{} in {}", display::count(count, "package", "packages"), display::count(layers.len(), "layer", "layers"));
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

/// Returns for each layer the later layers made of it. A layer is only ever made of lower ones, so there is no cycle.
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

/// Groups the layers that are not steps by their dependents, the most used first.
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
        // Layers without packages have the name of the layer.
        (0, [layer]) => display::name(&layer.record.name),
        (0, _) => display::count(layers.len(), "layer", "layers"),
        (count, _) => display::count(count, "package", "packages"),
    };
    Part {
        kind: Kind::Packages,
        title,
        lines: vec![format!("{} · unpacked in {}", display::bytes(bytes), display::duration(ms))],
        packages,
    }
}

fn step(layer: &Manifest) -> Part {
    let record = &layer.record;
    let mut lines = vec![
        format!("{} in {} · took {}", display::bytes(layer.bytes), entries(layer.entries), display::duration(record.duration_ms)),
        format!("layer {:.12}", layer.layer.to_string()),
        format!("derivation {:.12}", record.derivation),
    ];
    if !record.packages.is_empty() {
        lines.insert(0, display::one_line(&record.packages.join(", ")));
    }
    Part { kind: Kind::Step, title: display::name(&record.name), lines, packages: Vec::new() }
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// Removes the arrows that follow from a longer path. The graph must be acyclic.
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
