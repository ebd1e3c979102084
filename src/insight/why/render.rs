//! Renders an answer as text and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};
use silo_store::entry::Kind;

use crate::change::{Aspect, PathChange, kind_name};
use crate::display;
use crate::why_installed::{NamedPackage, Origin, Step};
use silo_base::sanitize;
use silo_base::timestamp;
use silo_build::known_secrets::Form;

use super::{Answer, Layer, Package, PathEntry, PathHistory, Subject};

/// Limit on the listed layers of a shared directory.
const MAX_HOLDERS: usize = 6;

/// Renders an answer as text.
pub fn text(answer: &Answer) -> String {
    let mut out = String::new();
    match &answer.about {
        Subject::Path(things) => {
            for (number, thing) in things.iter().enumerate() {
                if number > 0 {
                    out.push('\n');
                }
                push_thing(&mut out, thing, &answer.place);
            }
        }
        Subject::Package(package) => {
            let _ = writeln!(out, "{}", sanitize::line(&format!("{} {} is a package of {}", package.name, package.version, answer.place)));
            push_package_layer(&mut out, package);
            push_wanted(&mut out, package);
        }
        Subject::Provided { name, by } => {
            for package in by {
                let line = format!("{name} is provided by {} {} in {}", package.name, package.version, answer.place);
                let _ = writeln!(out, "{}", sanitize::line(&line));
                push_package_layer(&mut out, package);
                push_wanted(&mut out, package);
            }
        }
        Subject::Layer(layer) => push_whole_layer(&mut out, layer, &answer.place),
        Subject::Secret { path, known } => {
            let _ = writeln!(out, "{}", sanitize::line(&format!("/{path} is not in {}: all its users would share it", answer.place)));
            push(&mut out, "generated", &format!("by the scripts of {}", known.map_or("its packages", |known| known.package)));
            match known.map(|known| (known.form, known.path)) {
                None => push(&mut out, "at start", "not made; a step of a recipe or `dpkg-reconfigure PACKAGE` in a run makes one"),
                Some((Form::Never { instead }, _)) => push(&mut out, "at start", &format!("not made; {instead}")),
                Some((form, at)) => push(&mut out, "at start", &format!("each sandbox gets a new one: {}, at /{at}", form.text())),
            }
        }
    }
    out
}

// Writing to a string cannot fail, here and below.
fn push(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "  {name:<11} {}", sanitize::line(value));
}

fn push_thing(out: &mut String, thing: &PathHistory, place: &str) {
    let what = thing.stands.as_ref().map_or_else(|| "was removed".to_owned(), entry_line);
    let _ = writeln!(out, "{}", sanitize::line(&format!("/{} {what}", thing.path)));
    if thing.on_the_way {
        if let Some((layer, _)) = thing.deeds.last() {
            push(out, "layer", &layer_line(layer));
        }
        return;
    }
    let is_dir = thing.stands.as_ref().is_some_and(|standing| standing.kind == Kind::Dir);
    match thing.deeds.split_last() {
        None => push(out, "layer", &format!("none has it; {place} needs it as a parent directory")),
        Some((_, below)) if is_dir && !below.is_empty() => push_holders(out, thing),
        Some(((layer, deed), below)) => {
            push(out, if *deed == PathChange::Removed { "removed by" } else { "layer" }, &layer_line(layer));
            push(out, "derivation", &layer.manifest.record.derivation);
            let mut later = deed;
            for (layer, deed) in below.iter().rev() {
                let label = match later {
                    PathChange::Removed => "made by",
                    PathChange::Made | PathChange::Kept | PathChange::Changed(_) => "over",
                };
                push(out, label, &format!("{}{}", layer_line(layer), differs(later)));
                later = deed;
            }
        }
    }
    if let Some(package) = &thing.package {
        // The line of a package's own layer has already named it.
        let told = thing.deeds.last().and_then(|(layer, _)| layer.package.as_ref()).map(|package| package.name.as_str());
        if told != Some(package.name.as_str()) {
            push(out, "package", &format!("{} {}", package.name, package.version));
        }
        push_wanted(out, package);
    }
}

fn push_holders(out: &mut String, thing: &PathHistory) {
    push(out, "layers", &format!("{} have it, the topmost last", thing.deeds.len()));
    let skipped = thing.deeds.len().saturating_sub(MAX_HOLDERS);
    if skipped > 0 {
        push(out, "", &format!("… {skipped} more"));
    }
    for (layer, _) in &thing.deeds[skipped..] {
        push(out, "", &layer_line(layer));
    }
}

fn entry_line(standing: &PathEntry) -> String {
    match (standing.kind, &standing.target) {
        (_, Some(target)) => format!("is a symbolic link to {target}"),
        (Kind::Dir, _) => format!("is a directory, mode {:04o}", standing.mode),
        (kind, _) => format!("is a {} of {}, mode {:04o}", kind_name(kind), display::bytes(standing.size), standing.mode),
    }
}

/// Describes the difference to the layer above.
fn differs(later: &PathChange) -> String {
    match later {
        PathChange::Changed(aspects) => {
            let names: Vec<&str> = aspects.iter().map(|aspect| aspect.name()).collect();
            format!(" (changed: {})", names.join(", "))
        }
        PathChange::Kept => " (the same)".to_owned(),
        PathChange::Made | PathChange::Removed => String::new(),
    }
}

fn layer_line(layer: &Layer) -> String {
    let id = layer.manifest.layer.to_string();
    match &layer.package {
        Some(package) => format!("{id:.12} (package {} {})", package.name, package.version),
        None => format!("{id:.12} ({})", display::name(&layer.manifest.record.name)),
    }
}

fn push_package_layer(out: &mut String, package: &Package) {
    match &package.layer {
        Some(layer) => {
            push(out, "layer", &format!("{:.12} ({}, {} entries)", layer.layer.to_string(), display::bytes(layer.bytes), layer.entries));
            push(out, "derivation", &layer.record.derivation);
        }
        None => push(out, "layer", "none of its own: dpkg unpacked it in the configure step"),
    }
}

fn push_wanted(out: &mut String, package: &Package) {
    let Origin { wished, essential } = &package.origin;
    if let Some((wish, chain)) = wished {
        let entry = if wish.text == package.name { String::new() } else { format!(": \"{}\"", wish.text) };
        push(out, "wanted by", &format!("{}:{}{entry}", wish.file.display(), wish.line));
        push_chain(out, chain);
    }
    match essential {
        Some((_, chain)) if chain.is_empty() => push(out, "essential", &format!("{} is in every Debian root", package.name)),
        Some((root, chain)) if wished.is_none() => {
            push(out, "essential", &format!("{root} is in every Debian root, and needs it"));
            push_chain(out, chain);
        }
        Some((root, _)) => push(out, "essential", &format!("also needed by {root}, which is in every Debian root")),
        None if wished.is_none() => push(out, "wanted by", "unknown: no recipe entry needs it"),
        None => {}
    }
}

fn push_chain(out: &mut String, chain: &[Step]) {
    for step in chain {
        push(out, "", &format!("{} -> {}  ({}: {})", step.from, step.to, step.field, step.relation));
    }
}

fn push_whole_layer(out: &mut String, layer: &Layer, place: &str) {
    let record = &layer.manifest.record;
    let _ = writeln!(out, "{} is a layer of {}", layer.manifest.layer, sanitize::line(place));
    push(out, "name", &display::name(&record.name));
    push(out, "derivation", &record.derivation);
    push(out, "size", &format!("{} in {} entries", display::bytes(layer.manifest.bytes), layer.manifest.entries));
    let made = i64::try_from(record.created).unwrap_or(i64::MAX);
    push(out, "made", &format!("{}, in {}", timestamp::rfc3339(made), display::duration(record.duration_ms)));
    push(out, "inputs", &display::count(record.inputs.len(), "digest", "digests"));
    match &layer.package {
        Some(package) => {
            push(out, "package", &format!("{} {}", package.name, package.version));
            push_wanted(out, package);
        }
        None if record.packages.is_empty() => {}
        None => push(out, "packages", &display::one_line(&record.packages.join(", "))),
    }
}

/// Renders an answer as JSON.
pub fn json(answer: &Answer) -> Value {
    let mut out = match &answer.about {
        Subject::Path(things) => json!({ "path": things.iter().map(thing_json).collect::<Vec<_>>() }),
        Subject::Package(package) => json!({ "package": package_json(package) }),
        Subject::Provided { name, by } => json!({ "provided": name, "by": by.iter().map(package_json).collect::<Vec<_>>() }),
        Subject::Layer(layer) => json!({ "layer": layer_json(layer) }),
        Subject::Secret { path, known } => json!({
            "path": format!("/{path}"),
            "generatedBy": known.map(|known| known.package),
            "madeAtStart": known.is_some_and(|known| !matches!(known.form, Form::Never { .. })),
        }),
    };
    out["in"] = json!(answer.place);
    out
}

fn thing_json(thing: &PathHistory) -> Value {
    let deeds: Vec<Value> = thing
        .deeds
        .iter()
        .map(|(layer, deed)| {
            let (deed, aspects): (&str, &[Aspect]) = match deed {
                PathChange::Made => ("made", &[]),
                PathChange::Changed(aspects) => ("changed", aspects),
                PathChange::Kept => ("kept", &[]),
                PathChange::Removed => ("removed", &[]),
            };
            let aspects: Vec<&str> = aspects.iter().map(|aspect| aspect.name()).collect();
            let package = layer.package.as_ref().map(|package| format!("{} {}", package.name, package.version));
            let manifest = &layer.manifest;
            json!({
                "layer": manifest.layer.to_string(), "name": manifest.record.name, "derivation": manifest.record.derivation,
                "package": package, "did": deed, "changed": aspects,
            })
        })
        .collect();
    let stands = thing.stands.as_ref().map(|standing| {
        json!({ "type": kind_name(standing.kind), "mode": format!("{:04o}", standing.mode), "bytes": standing.size, "target": standing.target })
    });
    json!({
        "path": format!("/{}", thing.path), "onTheWay": thing.on_the_way, "stands": stands, "layers": deeds,
        "package": thing.package.as_ref().map(package_json),
    })
}

fn package_json(package: &Package) -> Value {
    let chain = |steps: &[Step]| -> Vec<Value> {
        steps.iter().map(|step| json!({ "from": step.from, "to": step.to, "field": step.field, "relation": step.relation })).collect()
    };
    let wished = package.origin.wished.as_ref().map(|(wish, steps): &(NamedPackage, Vec<Step>)| {
        json!({ "file": wish.file.display().to_string(), "line": wish.line, "entry": wish.text, "chain": chain(steps) })
    });
    let essential = package.origin.essential.as_ref().map(|(root, steps)| json!({ "package": root, "chain": chain(steps) }));
    json!({
        "name": package.name, "version": package.version, "isEssential": package.essential,
        "layer": package.layer.as_ref().map(|layer| layer.layer.to_string()),
        "derivation": package.layer.as_ref().map(|layer| &layer.record.derivation),
        "wantedBy": wished, "essential": essential,
    })
}

fn layer_json(layer: &Layer) -> Value {
    let manifest = &layer.manifest;
    let record = &manifest.record;
    json!({
        "layer": manifest.layer.to_string(), "name": record.name, "derivation": record.derivation, "bytes": manifest.bytes,
        "entries": manifest.entries, "created": record.created, "durationMs": record.duration_ms, "inputs": record.inputs,
        "packages": record.packages, "package": layer.package.as_ref().map(package_json),
    })
}
