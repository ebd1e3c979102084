//! Lists of tools of the version managers asdf (`.tool-versions`) and mise (`mise.toml`).

use super::findings::Findings;

/// Reads `.tool-versions`: a tool and its versions on each line, the preferred version first.
pub fn tool_versions(file: &str, text: &str, found: &mut Findings) {
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            one(file, name, version, found);
        }
    }
}

/// Reads `mise.toml`: the table `tools`.
pub fn mise(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    for (name, value) in table.get("tools").and_then(toml::Value::as_table).into_iter().flatten() {
        match version(value) {
            Some(version) => one(file, name, version, found),
            None => found.notes.push(format!("{file}: tools.{name} has no version")),
        }
    }
    let others: Vec<&str> = table.keys().filter(|key| !["tools", "min_version"].contains(&key.as_str())).map(String::as_str).collect();
    if !others.is_empty() {
        found.notes.push(format!("{file}: no effect in silo: {}", others.join(", ")));
    }
    Ok(())
}

/// Returns the version of an entry: a string, the first of a list, or the key `version` of a table.
fn version(value: &toml::Value) -> Option<&str> {
    match value {
        toml::Value::String(version) => Some(version),
        toml::Value::Array(versions) => version(versions.first()?),
        toml::Value::Table(table) => table.get("version")?.as_str(),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => None,
    }
}

fn one(file: &str, name: &str, version: &str, found: &mut Findings) {
    let version = ["latest:", "prefix:"].iter().find_map(|prefix| version.strip_prefix(prefix)).unwrap_or(version);
    if version == "system" || version.contains(':') {
        found.notes.push(format!("{file} asks for {name} {version}, which silo cannot provide"));
    } else {
        found.named(name, version, file);
    }
}
