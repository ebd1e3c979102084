//! Finds file and line of each value in the merged settings.
//!
//! Applies the rules of `merge.rs` to keys instead of types: lists are joined, tables merged by key, single values replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, TableLike, Value};

use crate::document;
use silo_base::sanitize::line;

/// Limits of which the smallest one counts.
const SMALLEST: [&str; 6] = [".timeSeconds", ".networkMB", ".cpus", ".memoryMB", ".rootfsSizeMB", "limits.processes"];
/// Lists that are replaced instead of joined.
const REPLACED: [&str; 6] = ["mirrors.debian", "mirrors.debianSecurity", ".ports", ".lsp.command", ".lsp.packages", ".lsp.steps"];

/// A text with settings.
#[derive(Clone, Debug)]
pub struct Source {
    /// File of the text, or another description of its source.
    pub path: PathBuf,
    /// Contents.
    pub text: String,
    /// Table of the keys: `overrides.python` for a recipe of python.
    pub below: Option<String>,
    /// Relevant keys; empty for all.
    pub keys: &'static [&'static str],
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedValue {
    /// The value as TOML.
    pub value: String,
    /// File.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
}

/// The values of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// One value.
    One(PlacedValue),
    /// A list, each item with its own place.
    List(Vec<PlacedValue>),
}

/// Merges sources, lowest first, and returns the effective values of each key with their places.
pub fn settings(sources: &[Source]) -> Result<BTreeMap<String, Setting>, document::Error> {
    let mut all = BTreeMap::new();
    for source in sources {
        let wrong = |error: toml_edit::TomlError| document::Error::Meaning { path: source.path.clone(), message: error.to_string() };
        let document = Document::parse(source.text.as_str()).map_err(wrong)?;
        let counts = |key: &str| source.keys.is_empty() || source.keys.contains(&key);
        for (key, item) in document.as_table().iter().filter(|(key, _)| counts(key)) {
            let path = source.below.as_ref().map_or_else(|| dotted("", key), |below| dotted(below, key));
            walk(source, &path, item, &mut all);
        }
    }
    Ok(all)
}

fn walk(source: &Source, key: &str, item: &Item, all: &mut BTreeMap<String, Setting>) {
    if let Some(tables) = item.as_array_of_tables() {
        let said = tables.iter().map(|table| placed_value(source, table.span(), inline(table)));
        return list(key, said.collect(), all);
    }
    if let Some(table) = item.as_table_like() {
        return table.iter().for_each(|(name, item)| walk(source, &dotted(key, name), item, all));
    }
    match item.as_value() {
        Some(Value::Array(array)) => {
            list(key, array.iter().map(|value| placed_value(source, value.span(), plain(value))).collect(), all);
        }
        Some(value) => {
            let value = placed_value(source, value.span(), plain(value));
            if !all.get(key).is_some_and(|before| is_stricter(key, before, &value)) {
                all.insert(key.to_owned(), Setting::One(value));
            }
        }
        None => {}
    }
}

/// True for a limit of settings that is smaller than that of more specific settings.
fn is_stricter(key: &str, before: &Setting, value: &PlacedValue) -> bool {
    let Setting::One(before) = before else { return false };
    // A limit of the recipe is only the default.
    let is_of_settings = before.path.file_name().is_some_and(|name| name == silo_base::home::PROJECT_CONFIG);
    let numbers = before.value.parse::<u64>().ok().zip(value.value.parse::<u64>().ok());
    is_of_settings && SMALLEST.iter().any(|name| key.ends_with(name)) && numbers.is_some_and(|(before, value)| before <= value)
}

fn list(key: &str, items: Vec<PlacedValue>, all: &mut BTreeMap<String, Setting>) {
    let replaced = REPLACED.iter().any(|name| key == *name || name.starts_with('.') && key.ends_with(name));
    let mut joined = match all.remove(key) {
        Some(Setting::List(under)) if !replaced => under,
        _ => Vec::new(),
    };
    for item in items {
        if joined.iter().all(|old| old.value != item.value) {
            joined.push(item);
        }
    }
    all.insert(key.to_owned(), Setting::List(joined));
}

fn placed_value(source: &Source, span: Option<std::ops::Range<usize>>, value: String) -> PlacedValue {
    let before = source.text.get(..span.map_or(0, |span| span.start)).unwrap_or_default();
    PlacedValue { value, path: source.path.clone(), line: before.matches('\n').count() + 1 }
}

/// Returns a value without surrounding comments and spaces.
fn plain(value: &Value) -> String {
    match value {
        Value::InlineTable(table) => inline(table),
        value => value.clone().decorated("", "").to_string(),
    }
}

fn inline(table: &dyn TableLike) -> String {
    let pair = |(name, item): (&str, &Item)| Some(format!("{} = {}", dotted("", name), plain(item.as_value()?)));
    format!("{{ {} }}", table.iter().filter_map(pair).collect::<Vec<_>>().join(", "))
}

/// Returns a nested key, quoted if necessary.
fn dotted(above: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    let name = if bare { name.to_owned() } else { Value::from(name).to_string() };
    if above.is_empty() { name } else { format!("{above}.{name}") }
}

/// Formats settings as TOML with the place of each value as a comment; `shown` formats a file name.
pub fn text(settings: &BTreeMap<String, Setting>, shown: impl Fn(&Path) -> String) -> String {
    let whence = |said: &PlacedValue| format!("# {}:{}", shown(&said.path), said.line);
    let mut text = String::new();
    for (key, setting) in settings {
        let key = line(key);
        match setting {
            Setting::One(said) => text += &format!("{key} = {}  {}\n", line(&said.value), whence(said)),
            Setting::List(list) => {
                text += &format!("{key} = [\n");
                text.extend(list.iter().map(|said| format!("    {},  {}\n", line(&said.value), whence(said))));
                text += "]\n";
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_says_where_it_comes_from() {
        let source = |path: &str, text: &str, below: Option<&str>, keys| Source {
            path: path.into(),
            text: text.to_owned(),
            below: below.map(str::to_owned),
            keys,
        };
        let sources = [
            source(
                "recipe",
                "description = \"x\"\ncache = [\"~/.cache/pip\"]\n[env]\nA = \"0\"\n",
                Some("overrides.python"),
                &["cache", "env"],
            ),
            source(
                "user",
                "# mine\npassEnv = [\"A\", # why\n  \"B\"]\nmount = { mode = \"ro\" }\n[[overrides.python.ports]]\nhost = 1\nguest = 2\n",
                None,
                &[],
            ),
            source(
                "project",
                "passEnv = [\"B\", \"C\"]\n[overrides.python]\nenv.A = \"1\"\nports = [{ host = 3, guest = 4 }]\n\n[overrides.python.env2]\n\"a b\" = true\n",
                None,
                &[],
            ),
        ];
        let settings = settings(&sources).expect("they are TOML");
        let text = text(&settings, |path| path.display().to_string());
        let expect = "mount.mode = \"ro\"  # user:4\n\
            overrides.python.cache = [\n    \"~/.cache/pip\",  # recipe:2\n]\n\
            overrides.python.env.A = \"1\"  # project:3\n\
            overrides.python.env2.\"a b\" = true  # project:7\n\
            overrides.python.ports = [\n    { host = 3, guest = 4 },  # project:4\n]\n\
            passEnv = [\n    \"A\",  # user:2\n    \"B\",  # user:3\n    \"C\",  # project:1\n]\n";
        assert_eq!(text, expect);
        let _: toml::Table = toml::from_str(&text).expect("what is shown is TOML itself");
        assert!(super::settings(&[source("x", "a = ", None, &[])]).is_err());
    }
}
