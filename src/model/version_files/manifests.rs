//! Manifests of package managers and toolchains with the versions that they support.

use serde_json::Value;

use super::findings::Findings;

/// Reads `rust-toolchain.toml`, or `rust-toolchain`, which may contain the channel only.
pub fn rust_toolchain(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let line = text.trim();
    if !line.is_empty() && !line.contains(['\n', '=', '[']) {
        found.wish("rust", line, file);
        return Ok(());
    }
    let table = table(text)?;
    let Some(toolchain) = table.get("toolchain").and_then(toml::Value::as_table) else { return Ok(()) };
    if let Some(channel) = toolchain.get("channel").and_then(toml::Value::as_str) {
        found.wish("rust", channel, file);
    }
    for key in ["targets", "path"].into_iter().filter(|key| toolchain.contains_key(*key)) {
        found.notes.push(format!("{file}: no effect in silo: toolchain.{key}"));
    }
    Ok(())
}

/// Reads `Cargo.toml`: the oldest supported version of Rust.
pub fn cargo(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let table = table(text)?;
    let package = table.get("package").and_then(|package| package.get("rust-version"));
    let workspace = || table.get("workspace")?.get("package")?.get("rust-version");
    if let Some(version) = package.and_then(toml::Value::as_str).or_else(|| workspace()?.as_str()) {
        found.wish("rust", format!(">={version}"), format!("{file} (rust-version)"));
    }
    Ok(())
}

/// Reads `pyproject.toml`: `requires-python`, or Poetry's dependency on python.
pub fn pyproject(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let table = table(text)?;
    if let Some(range) = table.get("project").and_then(|project| project.get("requires-python")).and_then(toml::Value::as_str) {
        found.wish("python", range, format!("{file} (requires-python)"));
    }
    let poetry = || table.get("tool")?.get("poetry")?.get("dependencies")?.get("python");
    if let Some(range) = poetry().and_then(toml::Value::as_str) {
        found.wish("python", range, format!("{file} (tool.poetry.dependencies)"));
    }
    Ok(())
}

/// Reads `Pipfile`: the table `requires`.
pub fn pipfile(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let table = table(text)?;
    let requires = table.get("requires").and_then(toml::Value::as_table);
    let version = |key: &str| requires?.get(key)?.as_str();
    if let Some(version) = version("python_full_version").or_else(|| version("python_version")) {
        found.wish("python", version, file);
    }
    Ok(())
}

/// Reads `go.mod`: the lines `toolchain` and `go`, which name the oldest usable version.
pub fn go_mod(file: &str, text: &str, found: &mut Findings) {
    let lines = || text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let value = |name: &str| lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix([' ', '\t']).map(str::trim));
    if let Some(version) = value("toolchain").and_then(|version| version.strip_prefix("go")) {
        found.wish("go", format!(">={version}"), format!("{file} (toolchain)"));
    }
    if let Some(version) = value("go") {
        found.wish("go", format!(">={version}"), format!("{file} (go)"));
    }
}

/// Reads `package.json`: `devEngines`, `volta`, `engines` and `packageManager`.
pub fn package_json(file: &str, text: &str, found: &mut Findings) -> Result<(), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let package: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for (name, version) in dev_engines(&package, "runtime") {
        found.named(name, version, &format!("{file} (devEngines.runtime)"));
    }
    for key in ["volta", "engines"] {
        if let Some(range) = package[key]["node"].as_str() {
            found.wish("node", range, format!("{file} ({key}.node)"));
        }
    }
    let named = package["packageManager"].as_str().map(|text| text.split_once('@').unwrap_or((text, "")));
    let source = format!("{file} (packageManager)");
    if let Some((name, version)) = named {
        manager(name, version.split('+').next().unwrap_or_default(), &source, found);
    }
    for (name, version) in dev_engines(&package, "packageManager") {
        manager(name, version, &format!("{file} (devEngines.packageManager)"), found);
    }
    for name in ["pnpm", "yarn"] {
        if let Some(range) = package["engines"][name].as_str() {
            manager(name, range, &format!("{file} (engines.{name})"), found);
        }
    }
    Ok(())
}

/// Returns names and versions of a part of `devEngines`: one table or a list of them.
fn dev_engines<'a>(package: &'a Value, part: &str) -> Vec<(&'a str, &'a str)> {
    let part = &package["devEngines"][part];
    let one = |engine: &'a Value| Some((engine["name"].as_str()?, engine["version"].as_str().unwrap_or("*")));
    match part {
        Value::Array(list) => list.iter().filter_map(one).collect(),
        engine => one(engine).into_iter().collect(),
    }
}

/// Adds a package manager of node; npm comes with it.
fn manager(name: &str, version: &str, source: &str, found: &mut Findings) {
    match name {
        "npm" => {}
        "pnpm" | "yarn" => found.addon(name, Some("node"), version, source),
        other => found.notes.push(format!("{source} asks for {other} {version}, which is no tool of silo")),
    }
}

fn table(text: &str) -> Result<toml::Table, String> {
    text.parse().map_err(|error: toml::de::Error| error.message().to_owned())
}
