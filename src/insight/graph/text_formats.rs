//! Renders the graph as text for other programs: DOT, Mermaid, JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Graph, Head, Kind, Part};
use silo_store::manifest::Manifest;

/// Package names per line of a box.
const NAMES_A_LINE: usize = 4;

/// Renders a graph in Graphviz's DOT language.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph image {\n");
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(out, "  label=\"{}\\n{}\";", quoted(&graph.title), quoted(&graph.summary));
    out.push_str("  labelloc=t;\n  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\", fontsize=11];\n");
    for (number, part) in graph.parts.iter().enumerate() {
        let lines: Vec<String> = lines(part).iter().map(|line| quoted(line)).collect();
        let _ = writeln!(out, "  n{number} [label=\"{}\", fillcolor=\"{}\"];", lines.join("\\n"), colour(part.kind));
    }
    for (from, to) in &graph.arrows {
        let _ = writeln!(out, "  n{from} -> n{to};");
    }
    out.push_str("}\n");
    out
}

/// Renders a graph in Mermaid's language, which Markdown on forges displays as a picture.
pub fn mermaid(graph: &Graph) -> String {
    let mut out = String::from("flowchart TB\n");
    for (number, part) in graph.parts.iter().enumerate() {
        let lines: Vec<String> = lines(part).iter().map(|line| entities(line)).collect();
        let _ = writeln!(out, "    n{number}[\"{}\"]", lines.join("<br/>"));
    }
    for (from, to) in &graph.arrows {
        let _ = writeln!(out, "    n{from} --> n{to}");
    }
    for kind in [Kind::Packages, Kind::Step, Kind::Image] {
        let members: Vec<String> =
            graph.parts.iter().enumerate().filter(|(_, part)| part.kind == kind).map(|(number, _)| format!("n{number}")).collect();
        if !members.is_empty() {
            let word = word(kind);
            let _ = writeln!(
                out,
                "    classDef {word} fill:{},stroke:#8c959f,color:#1f2328\n    class {} {word}",
                colour(kind),
                members.join(",")
            );
        }
    }
    out
}

/// Renders the data of a graph as JSON, ungrouped, with every arrow.
pub fn json(head: &Head, layers: &[Manifest]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({
                "layer": layer.layer.to_string(), "name": layer.record.name, "derivation": layer.record.derivation,
                "packages": layer.record.packages, "inputs": layer.record.inputs, "bytes": layer.bytes, "entries": layer.entries,
                "durationMs": layer.record.duration_ms,
            })
        })
        .collect();
    json!({ "title": head.title, "image": head.image, "architecture": head.arch, "command": head.command, "layers": layers })
}

fn lines(part: &Part) -> Vec<String> {
    let mut lines = vec![part.title.clone()];
    lines.extend(part.lines.iter().cloned());
    let names: Vec<&str> = part.packages.iter().map(|package| package.name.as_str()).collect();
    lines.extend(names.chunks(NAMES_A_LINE).map(|some| some.join(", ")));
    lines
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Packages => "packages",
        Kind::Step => "step",
        Kind::Image => "image",
    }
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Packages => "#f3f8ff",
        Kind::Step => "#fff8e8",
        Kind::Image => "#eefaf0",
    }
}

/// Escapes a text for a DOT string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Escapes a text for a quoted Mermaid label, which is read as HTML with numeric entities.
fn entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '<' | '>' | '&' | '#' | '`' | ';' | '\\' => {
                let _ = write!(out, "#{};", u32::from(c));
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
