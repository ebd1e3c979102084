//! `devcontainer.json`: the image or the features name tools and versions, and `forwardPorts` names ports. Everything else is noted.

use std::num::NonZeroU16;

use jsonc_parser::ParseOptions;
use serde_json::Value;

use crate::recipe::quoted;

use super::findings::{Findings, Named, tool_of};

/// Keys that describe the container itself or an editor, and need no equivalent.
const SILENT: [&str; 6] = ["$schema", "name", "image", "features", "forwardPorts", "customizations"];

/// Reads a devcontainer.json.
pub fn devcontainer(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let value: Value = jsonc_parser::parse_to_serde_value(text, &ParseOptions::default()).map_err(|error| error.to_string())?;
    let Some(table) = value.as_object() else { return Err("it is not a JSON object".to_owned()) };
    if let Some(reference) = table.get("image").and_then(Value::as_str) {
        image(file, reference, found);
    }
    for (reference, options) in table.get("features").and_then(Value::as_object).into_iter().flatten() {
        feature(file, reference, options, found);
    }
    for port in table.get("forwardPorts").and_then(Value::as_array).into_iter().flatten() {
        match port.as_u64().and_then(|port| NonZeroU16::new(u16::try_from(port).ok()?)) {
            Some(port) if !found.ports.contains(&port) => found.ports.push(port),
            Some(_) => {}
            None => found.notes.push(format!("{file}: forwardPorts: {port} is not a port of this project")),
        }
    }
    for key in ["onCreateCommand", "updateContentCommand", "postCreateCommand", "postStartCommand", "postAttachCommand"] {
        if let Some(command) = table.get(key).and_then(shown) {
            found.notes.push(format!("{file}: {key} is not run; run it yourself: silo exec -- {command}"));
        }
    }
    let others: Vec<&str> = table.keys().map(String::as_str).filter(|key| !SILENT.contains(key) && !key.ends_with("Command")).collect();
    if !others.is_empty() {
        found.notes.push(format!("{file}: no effect in silo: {}", others.join(", ")));
    }
    Ok(())
}

/// Returns a command for display: a string is for the shell, a list is a command line.
fn shown(command: &Value) -> Option<String> {
    match command {
        Value::String(text) => Some(format!("sh -c '{}'", text.replace('\'', "'\\''"))),
        Value::Array(words) => Some(words.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" ")),
        Value::Object(table) => table.values().find_map(shown),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Takes the tool and version of an image such as `HOST/devcontainers/python:1-3.12-bookworm` or `node:22-slim`.
fn image(file: &str, reference: &str, found: &mut Findings) {
    let reference = reference.split_once('@').map_or(reference, |(named, _digest)| named);
    let (path, tag) = reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((reference, ""));
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some(Named::Tool(tool)) = tool_of(name) else {
        found.notes.push(format!("{file}: the image {reference} corresponds to no tool of silo"));
        return;
    };
    let is_number = |part: &&str| part.starts_with(|c: char| c.is_ascii_digit());
    let parts: Vec<&str> = tag.split('-').filter(is_number).collect();
    // The tag of a development container may begin with the version of the container itself: `1-3.12-bookworm`, `3.12-bookworm`.
    let version = match (path.contains("devcontainers/"), parts.as_slice()) {
        (true, [_, version, ..]) | (_, [version, ..]) => *version,
        _ => "latest",
    };
    found.wish(tool, version, format!("{file} (image)"));
}

/// Takes the tool and version of a feature such as `HOST/devcontainers/features/node:1`.
fn feature(file: &str, reference: &str, options: &Value, found: &mut Findings) {
    let path = reference.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(reference, |(path, _)| path);
    let name = path.rsplit('/').next().unwrap_or(path);
    let named = tool_of(name);
    // The default of the feature itself.
    let default = if named == Some(Named::Tool("node")) { "lts" } else { "latest" };
    let version = options.as_str().or_else(|| options["version"].as_str()).unwrap_or(default);
    match named {
        Some(Named::Tool(tool)) => found.wish(tool, version, format!("{file} (features)")),
        Some(Named::Addon(name, tool)) => found.addon(name, tool, version, &format!("{file} (features)")),
        None => found.notes.push(format!("{file}: the feature {name} corresponds to no tool of silo")),
    }
}
