//! Describes differences of a project's files, in one line per file.

use std::collections::BTreeMap;
use std::path::Path;

use silo_store::digest::Digest;

use silo_base::home::{PROJECT_CONFIG, PROJECT_LOCK};
use silo_model::config::project::ProjectFiles;
use silo_model::lock::{self, Lock, Package, StepOutput};

use super::exposure::plain;
use super::record::Place;

/// Most described changes of a file.
const SHOWN: usize = 24;
/// Most displayed characters of a value.
const LETTERS: usize = 160;

/// Describes the differences to the files that counted before.
pub fn differences(place: &Place, known: Option<&BTreeMap<String, Digest>>, files: &ProjectFiles) -> Vec<String> {
    let none = BTreeMap::new();
    let (known, now) = (known.unwrap_or(&none), files.digests());
    let mut names: Vec<&String> = known.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let mut lines = Vec::new();
    for name in names {
        let (old, new) = (known.get(name), now.get(name));
        if old == new {
            continue;
        }
        let before = old.map_or(Some(String::new()), |digest| place.copy(name, digest));
        let after = files.text(name).ok().flatten().unwrap_or_default();
        let details = before.map(|before| details(name, &before, after)).unwrap_or_default();
        let verb = match (old, new) {
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "was changed",
        };
        lines.push(plain(&sentence(name, verb, details)));
    }
    lines
}

fn sentence(name: &str, verb: &str, mut details: Vec<String>) -> String {
    let more = details.len().saturating_sub(SHOWN);
    details.truncate(SHOWN);
    if more > 0 {
        details.push(format!("{more} more changes"));
    }
    let details: Vec<String> = details.iter().map(|detail| clipped(detail)).collect();
    if details.is_empty() { format!("{name} {verb}") } else { format!("{name} {verb}: {}", details.join("; ")) }
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(LETTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

fn details(name: &str, before: &str, after: &str) -> Vec<String> {
    match name {
        PROJECT_CONFIG => of_settings(before, after),
        PROJECT_LOCK => of_locks(before, after),
        _ => Vec::new(),
    }
}

/// Compares two TOML texts key by key; an invalid text has no keys.
fn of_settings(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (flat(before), flat(after));
    let mut lines = Vec::new();
    for (key, value) in &after {
        match before.get(key) {
            Some(old) if old == value => {}
            Some(old) => lines.push(format!("{key} = {value} instead of {old}")),
            None => lines.push(format!("{key} = {value}")),
        }
    }
    lines.extend(before.keys().filter(|key| !after.contains_key(*key)).map(|key| format!("no {key}")));
    lines
}

fn flat(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    if let Ok(table) = text.parse::<toml::Table>() {
        for (key, value) in &table {
            flatten(key, value, &mut found);
        }
    }
    found
}

fn flatten(path: &str, value: &toml::Value, found: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                flatten(&format!("{path}.{key}"), value, found);
            }
        }
        value => drop(found.insert(path.to_owned(), value.to_string())),
    }
}

/// Compares two locks tool by tool: packages and their versions, images, outputs of steps.
pub fn of_locks(before: &str, after: &str) -> Vec<String> {
    let read = |text: &str| if text.is_empty() { Some(BTreeMap::new()) } else { lock::parse(text, Path::new(PROJECT_LOCK)).ok() };
    let (Some(before), Some(after)) = (read(before), read(after)) else { return vec!["it cannot be read".to_owned()] };
    let mut lines = Vec::new();
    for (tool, new) in &after {
        match before.get(tool) {
            Some(old) if old == new => {}
            Some(old) => of_tool(tool, old, new, &mut lines),
            None => lines.push(format!("{tool} is locked{}", sizes(new))),
        }
    }
    lines.extend(before.keys().filter(|tool| !after.contains_key(*tool)).map(|tool| format!("{tool} is not locked")));
    lines
}

fn sizes(lock: &Lock) -> String {
    let packages: usize = lock.packages.values().map(BTreeMap::len).max().unwrap_or(0);
    let steps: usize = lock.steps.values().map(BTreeMap::len).max().unwrap_or(0);
    match steps {
        0 => format!(" with {packages} packages"),
        _ => format!(" with {packages} packages and the results of {steps} steps"),
    }
}

fn of_tool(tool: &str, old: &Lock, new: &Lock, lines: &mut Vec<String>) {
    if old.asked != new.asked {
        lines.push(format!("{tool} is locked for other packages of the recipe or silo.toml"));
    }
    let packages = |lock: &Lock| -> BTreeMap<String, Package> {
        let all = lock.packages.iter().flat_map(|(arch, packages)| packages.iter().map(move |(name, package)| (arch, name, package)));
        all.map(|(arch, name, package)| (format!("{name} ({})", arch.name()), package.clone())).collect()
    };
    compare(&packages(old), &packages(new), |name, old, new| {
        lines.push(match (old, new) {
            (None, Some(new)) => format!("{tool} has {name} {}", new.version),
            (Some(old), None) => format!("{tool} has no {name} {}", old.version),
            (Some(old), Some(new)) if old.version != new.version => format!("{tool} has {name} {} instead of {}", new.version, old.version),
            _ => format!("{tool} has another file of {name}"),
        });
    });
    if old.images != new.images {
        lines.push(format!("{tool} is made of another image"));
    }
    let steps = |lock: &Lock| -> BTreeMap<String, StepOutput> {
        let all = lock.steps.iter().flat_map(|(arch, steps)| steps.iter().map(move |(key, output)| (arch, key, output)));
        all.map(|(arch, key, output)| (format!("{}/{}", arch.name(), key.0), output.clone())).collect()
    };
    compare(&steps(old), &steps(new), |_, old, new| {
        lines.push(match (old, new) {
            (None, Some(new)) => format!("{tool}: the result of `{}` is {:.12}", new.command, new.layer.0.to_string()),
            (Some(old), None) => format!("{tool}: no result of `{}`", old.command),
            (Some(old), Some(new)) if old.layer == new.layer => format!("{tool}: `{}` has another record of the network", new.command),
            (Some(old), Some(new)) => {
                format!(
                    "{tool}: the result of `{}` is {:.12} instead of {:.12}",
                    new.command,
                    new.layer.0.to_string(),
                    old.layer.0.to_string()
                )
            }
            (None, None) => return,
        });
    });
    if old.epoch != new.epoch || old.indexes != new.indexes {
        lines.push(format!("{tool} is locked from other package indexes"));
    }
}

/// Calls back for each key with different values.
fn compare<T: PartialEq>(old: &BTreeMap<String, T>, new: &BTreeMap<String, T>, mut differs: impl FnMut(&str, Option<&T>, Option<&T>)) {
    for (key, value) in new {
        if old.get(key) != Some(value) {
            differs(key, old.get(key), Some(value));
        }
    }
    for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
        differs(key, Some(value), None);
    }
}
