//! Files with nothing but a version: `.python-version`, `.nvmrc`, `.node-version`, `.java-version`, `.dvmrc`.

use super::findings::{Findings, java_version};

/// Reads `.python-version`. Of several versions, the first is the default one.
pub fn python(file: &str, text: &str, found: &mut Findings) {
    let mut lines = lines(text).flat_map(str::split_whitespace);
    let Some(first) = lines.next() else { return };
    let version = ["cpython-", "cpython@", "python-", "python"].iter().find_map(|prefix| first.strip_prefix(prefix)).unwrap_or(first);
    found.wish("python", version, file);
    let others: Vec<&str> = lines.collect();
    if !others.is_empty() {
        found.notes.push(format!("{file} also asks for {}; silo uses the first version", others.join(", ")));
    }
}

/// Reads `.nvmrc` or `.node-version`.
pub fn node(file: &str, text: &str, found: &mut Findings) {
    first(text).into_iter().for_each(|version| found.wish("node", version, file));
}

/// Reads `.java-version`.
pub fn java(file: &str, text: &str, found: &mut Findings) {
    first(text).into_iter().for_each(|version| found.wish("java", java_version(version), file));
}

/// Reads `.dvmrc`, the version of Deno.
pub fn deno(file: &str, text: &str, found: &mut Findings) {
    first(text).into_iter().for_each(|version| found.wish("deno", version, file));
}

fn first(text: &str) -> Option<&str> {
    lines(text).next()
}

/// Returns the lines without comments.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty())
}
