//! docs/silo-toml.md is generated from the schema of `silo.toml`, and so from its types: it cannot be out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use silo_build::cause::Cause;
use silo_build::known_secrets::{self, Form, KnownSecret};

use crate::support::{Silo, golden};

const BEFORE: &str = "# silo.toml

A test generates this page from the types that parse the file (`the_reference_is_that_of_the_types` in `tests/reference.rs`). An unknown key is an error that names file, line, column and the nearest known key.

| file | scope |
|---|---|
| `~/.silo/silo.toml` | yours, for everything |
| `<project>/silo.toml` | the project's: the file in the nearest parent directory. You or root must own it and its directory, and nobody else may write either. Tools see this directory |

Your file overrides the recipe of a tool, and the project's file overrides both. `silo config show [TOOL]` prints the effective values, each with its file and line; `--json` is for scripts. `silo config network` and `silo config ports` edit the file and keep its comments,
as do `silo use`, `add` and `build`. Grants in a project's file need your approval ([security.md](security.md#approval-of-project-settings)).

```toml
#:schema https://example.com/docs/schema/silo.json
tools = [\"python@3.13\"]
passEnv = [\"EDITOR\"]

[mount]
exclude = [\".venv\"]

[overrides.python]
env = { MODE = \"test\" }
memoryMB = 2048
```

The JSON schema is [schema/silo.json](schema/silo.json) (`silo schema silo`); a first line `#:schema <path or address>` gives its address to editors that support it.

## Keys

*Joined* lists add up the entries of all files; a *replaced* value comes from the most specific file; tables are merged key by key.

| key | type | merge | meaning |
|---|---|---|---|
";

const AFTER: &str = "
## Not supported

`overrides.<tool>.image` is an error: set an image in a recipe ([oci.md](oci.md)).

## The older format

Without a `silo.toml`, Silo reads a project's `.siloconf` and your `~/.silo/siloconf`, YAML files with the same keys, and prints one warning. `silo config migrate` writes them as `silo.toml` and renames them to `.siloconf.bak`. It lists settings that it cannot convert and
adds them as comments. `project_id` is read as `projectId`, `network.hostAccess` and `network.proxy.*` as the current lists, `cache.rootfs` as `gc`.
";

#[test]
fn the_reference_is_that_of_the_types() {
    let schema: Value = serde_json::from_str(&Silo::new().ok(["schema", "silo"])).expect("a schema");
    let mut rows = BTreeMap::new();
    walk(&schema, &schema, "", 0, &mut rows);
    for key in ["tools", "mount.exclude", "overrides.<tool>.cache", "cache.tools.perMount.<name>", "ecosystems.<name>"] {
        assert!(rows.contains_key(key), "{key}: {:?}", rows.keys());
    }
    let rows: String = rows.iter().map(|(key, (kind, merge, meaning))| format!("| `{key}` | {kind} | {merge} | {meaning} |\n")).collect();
    golden("../../docs/silo-toml.md", &format!("{BEFORE}{rows}{AFTER}"));
}

/// Adds the keys of an object, each with its type, how files lie over one another, and its meaning.
fn walk(root: &Value, schema: &Value, above: &str, depth: usize, rows: &mut BTreeMap<String, (String, &'static str, String)>) {
    assert!(depth < 8, "{above} is too deep");
    let object = resolved(root, schema);
    for (key, property) in object["properties"].as_object().into_iter().flatten() {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        one(root, property, &path, depth, rows);
    }
}

fn one(root: &Value, property: &Value, path: &str, depth: usize, rows: &mut BTreeMap<String, (String, &'static str, String)>) {
    let found = resolved(root, property);
    if found["properties"].is_object() {
        return walk(root, found, path, depth + 1, rows);
    }
    let meaning =
        [property, found].into_iter().find_map(|schema| schema["description"].as_str()).expect(path).replace('\n', " ").replace('|', "\\|");
    let more = &found["additionalProperties"];
    if more.is_object() {
        let name = if path == "overrides" { "<tool>" } else { "<name>" };
        let path = format!("{path}.{name}");
        if resolved(root, more)["properties"].is_object() {
            return walk(root, more, &path, depth + 1, rows);
        }
        let kind = kind(root, more);
        rows.insert(path.clone(), (kind.clone(), merge(&path, &kind), meaning));
        return;
    }
    let kind = kind(root, found);
    rows.insert(path.to_owned(), (kind.clone(), merge(path, &kind), meaning));
}

/// Follows references; skips the null variant of optional keys.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return resolved(root, &root["$defs"][name]);
    }
    let is_null = |schema: &&Value| schema["type"] != "null";
    match schema["anyOf"].as_array() {
        Some(all) if all.iter().filter(is_null).count() == 1 => all.iter().find(is_null).map_or(schema, |one| resolved(root, one)),
        _ => schema,
    }
}

fn kind(root: &Value, schema: &Value) -> String {
    let schema = resolved(root, schema);
    let several = |key: &str| schema[key].as_array().map(|all| all.iter().map(|one| kind(root, one)).collect::<Vec<_>>().join(" or "));
    if let Some(word) = schema["const"].as_str() {
        return format!("`\"{word}\"`");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().filter_map(Value::as_str).map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ");
    }
    if let Some(all) = several("oneOf").or_else(|| several("anyOf")) {
        return all;
    }
    let name = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or_default(),
        name => name.as_str().unwrap_or_default(),
    };
    match name {
        "array" => match kind(root, &schema["items"]).as_str() {
            "string" => "list of strings".to_owned(),
            items if items.contains(" or ") => format!("list of ({items})"),
            items => format!("list of {items}"),
        },
        "object" => {
            let keys: Vec<String> = schema["properties"].as_object().into_iter().flatten().map(|(key, _)| format!("`{key}`")).collect();
            format!("table of {}", keys.join(", "))
        }
        name => name.to_owned(),
    }
}

/// As `src/model/config/merge.rs` does it.
fn merge(path: &str, kind: &str) -> &'static str {
    match path {
        "mirrors.debian" | "mirrors.debianSecurity" | "overrides.<tool>.ports" => "replaced",
        _ if path.contains(".lsp.") && !path.ends_with(".cache") => "replaced",
        "trust" | "mirrors.allowStale" => "yours alone",
        "tier" => "the stricter one",
        _ if path.starts_with("limits.") => "the smaller one",
        _ if [".timeSeconds", ".networkMB", ".cpus", ".memoryMB", ".rootfsSizeMB"].iter().any(|name| path.ends_with(name)) => {
            "the smaller one"
        }
        _ if path == "review" || path.ends_with(".review") => "the stricter one",
        _ if ["cache.", "build.", "gc."].iter().any(|table| path.starts_with(table)) || path.contains("secrets.") => "yours alone",
        _ if kind.starts_with("list") => "joined",
        _ if path.ends_with("passSshAgent") || path.ends_with("reset") => "true if any says so",
        _ => "replaced",
    }
}

/// Every command with its arguments and options, from the definition that parses them.
#[test]
fn the_command_page_is_generated_from_the_definition() {
    fn section(command: &mut clap::Command, name: &str, page: &mut String) {
        let text = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
        let usage = command.render_usage().to_string();
        page.push_str(&format!("\n## {name}\n\n{text}\n\n```text\n{}\n```\n", usage.trim_start_matches("Usage: ")));
        let arguments: Vec<&clap::Arg> = command.get_arguments().filter(|one| !one.is_hide_set() && one.get_id() != "help").collect();
        if !arguments.is_empty() {
            page.push_str("\n| argument | meaning |\n|---|---|\n");
        }
        for argument in arguments {
            let meaning = argument.get_help().or_else(|| argument.get_long_help()).map(ToString::to_string).unwrap_or_default();
            let short = argument.get_short().map(|letter| format!("`-{letter}`, ")).unwrap_or_default();
            let values = argument.get_value_names().unwrap_or_default().join(" ");
            let name = match argument.get_long() {
                Some(long) if argument.get_action().takes_values() => format!("`--{long} <{values}>`"),
                Some(long) => format!("`--{long}`"),
                None => format!("`<{values}>`"),
            };
            page.push_str(&format!("| {short}{} | {} |\n", name.replace('|', "\\|"), meaning.replace('\n', " ").replace('|', "\\|")));
        }
        for inner in command.get_subcommands_mut().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
            let name = format!("{name} {}", inner.get_name());
            section(inner, &name, page);
        }
    }
    let mut command = silo::cli::command();
    command.build();
    let mut page = "# Commands\n\nA test generates this page from the definition that parses the command line \
        (`the_command_page_is_generated_from_the_definition`). `silo help COMMAND` prints the same text, and `silo man` the manual pages.\n"
        .to_owned();
    section(&mut command, "silo", &mut page);
    assert!(page.contains("\n## silo install\n") && page.contains("\n## silo config network allow\n"), "{page}");
    golden("../../docs/commands.md", &page);
}

/// The causes that a check names, from the code.
#[test]
fn the_causes_of_differences_are_on_their_page() {
    const BEGIN: &str = "<!-- causes -->\n";
    const END: &str = "<!-- end of causes -->\n";
    let row = |cause: &Cause| format!("| {} | {} | {} |\n", cause.name(), cause.sign(), cause.remedy());
    let table: String = Cause::ALL.iter().map(row).collect();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reproducible.md")).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the page marks the table's beginning");
    let (_, after) = rest.split_once(END).expect("the page marks the table's end");
    let text = format!("{before}{BEGIN}\n| cause | the differing bytes | remedy |\n|---|---|---|\n{table}\n{END}{after}");
    golden("../../docs/reproducible.md", &text);
}

/// The secrets that a sandbox gets at its start, from the code.
#[test]
fn the_known_secrets_are_on_their_page() {
    const BEGIN: &str = "<!-- secrets -->\n";
    const END: &str = "<!-- end of secrets -->\n";
    let row = |known: &KnownSecret| {
        let made = match known.form {
            Form::Never { instead } => instead,
            form => form.text(),
        };
        format!("| {} | `/{}` | {made} |\n", known.package, known.path)
    };
    let table: String = known_secrets::ALL.iter().map(row).collect();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reproducible.md")).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the page marks the table's beginning");
    let (_, after) = rest.split_once(END).expect("the page marks the table's end");
    let text = format!("{before}{BEGIN}\n| package | path | at each start |\n|---|---|---|\n{table}\n{END}{after}");
    golden("../../docs/reproducible.md", &text);
}

/// The page explains keys at more length than the schema does, and must have each.
#[test]
fn every_recipe_key_is_on_its_page() {
    let schema: Value = serde_json::from_str(&Silo::new().ok(["schema", "recipe"])).expect("a schema");
    let mut rows = BTreeMap::new();
    walk(&schema, &schema, "", 0, &mut rows);
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipe.md")).expect("a page");
    // The `debian` table of a version has the keys of the recipe's.
    let named = |key: &String| {
        let key = key.trim_end_matches(".<name>").replace("versions.<name>.debian.", "debian.");
        key.replace("versions.<name>", "versions.<version>")
    };
    let missing: Vec<String> = rows.keys().map(named).filter(|key| !page.contains(&format!("| `{key}` |"))).collect();
    assert!(rows.len() > 20 && missing.is_empty(), "docs/recipe.md has no row for {missing:?}");
}

/// Tests and probes that pages cite as evidence.
#[test]
fn names_in_the_docs_exist() {
    fn texts(dir: &Path, kinds: &[&str], into: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).expect("our own directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                texts(&path, kinds, into);
            } else if path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known)) {
                into.push((path.clone(), fs::read_to_string(&path).expect("our own file")));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut code, mut pages) = (Vec::new(), Vec::new());
    for dir in ["src", "store", "tests", "benches"] {
        texts(&root.join(dir), &["rs", "py"], &mut code);
    }
    texts(&root.join("docs"), &["md"], &mut pages);
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').map(str::to_owned).collect()
    };
    let known: BTreeSet<String> = code.iter().flat_map(|(_, text)| words(text)).collect();
    let mut named = 0;
    for (path, text) in &pages {
        for word in text.split('`').skip(1).step_by(2) {
            let letters = |word: &str| word.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
            if letters(word) && word.split('_').filter(|part| !part.is_empty()).count() > 2 {
                named += 1;
                assert!(known.contains(word), "{}: there is no {word}", path.display());
            }
        }
    }
    assert!(named > 200, "only {named} tests are named");
}
