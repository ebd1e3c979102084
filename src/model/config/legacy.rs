//! Reads the settings format before `silo.toml`, YAML with the same keys, by converting it to TOML.
//!
//! Settings that no longer exist are dropped and reported: the host directory of caches (all projects shared them), and images, which now
//! belong in recipes.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle};
use toml::{Table, Value};

use crate::document::{self, Error};

/// Maximum nesting of lists and tables.
const MAX_DEPTH: usize = 16;

/// Owner of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsOwner {
    /// A project.
    Project,
    /// The user.
    User,
}

/// Converted settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvertedSettings {
    /// Text of a `silo.toml`.
    pub text: String,
    /// Dropped settings, with reasons.
    pub left: Vec<String>,
}

/// Converts old settings that were read from `path`.
pub fn to_toml(yaml: &str, path: &Path, whose: SettingsOwner) -> Result<ConvertedSettings, Error> {
    let wrong = |message: String| Error::Meaning { path: path.to_owned(), message };
    let read = Reader { events: Parser::new_from_str(yaml) }.document().map_err(wrong)?;
    let Some(read) = read else { return Ok(ConvertedSettings { text: String::new(), left: Vec::new() }) };
    let Value::Table(mut settings) = read else { return Err(wrong("it is not a table of keys".to_owned())) };
    let mut left = Vec::new();
    if whose == SettingsOwner::Project && settings.remove("cache").is_some() {
        left.push("cache: limits of caches are user settings; set them in ~/.silo/silo.toml".to_owned());
    }
    for (tool, over) in settings.get_mut("overrides").and_then(Value::as_table_mut).into_iter().flatten() {
        if let Value::Table(over) = over {
            of_override(tool, over, &mut left);
        }
    }
    let text = toml::to_string(&settings).map_err(|error| wrong(error.to_string()))?;
    Ok(ConvertedSettings { text, left })
}

/// A tool that an older program had installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledTool {
    /// Its name.
    pub name: String,
    /// The name of its image, if the list has one.
    pub image: Option<String>,
}

/// Reads an old list of installed tools: YAML if the name of its file ends in `.yaml`, else TOML. The order is that of the names.
pub fn installed_tools(text: &str, path: &Path) -> Result<Vec<InstalledTool>, Error> {
    let wrong = |message: String| Error::Meaning { path: path.to_owned(), message };
    let list = if path.extension().is_some_and(|ending| ending == "yaml") {
        Reader { events: Parser::new_from_str(text) }.document().map_err(wrong)?
    } else {
        Some(Value::Table(document::parse(text, path)?))
    };
    let tools = match list.as_ref().and_then(|list| list.get("tools")) {
        None => return Ok(Vec::new()),
        Some(tools) => tools.as_table().ok_or_else(|| wrong("tools is not a table".to_owned()))?,
    };
    let image = |tool: &Value| tool.get("image").and_then(Value::as_str).map(str::to_owned);
    let mut found: Vec<InstalledTool> = tools.iter().map(|(name, tool)| InstalledTool { name: name.clone(), image: image(tool) }).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

fn of_override(tool: &str, over: &mut Table, left: &mut Vec<String>) {
    if over.remove("image").is_some() {
        left.push(format!("overrides.{tool}.image: images belong in a recipe, as `silo install NAME --image` writes it"));
    }
    let entries = over.remove("cache");
    of_caches(&format!("overrides.{tool}"), entries, over, left);
    if let Some(Value::Table(lsp)) = over.get_mut("lsp") {
        let entries = lsp.remove("cache");
        let mut kept = Table::new();
        of_caches(&format!("overrides.{tool}.lsp"), entries, &mut kept, left);
        // A server's cache can always be refilled, so both kinds become a cache.
        let all: Vec<Value> = ["cache", "state"].into_iter().filter_map(|key| kept.remove(key)?.as_array().cloned()).flatten().collect();
        if !all.is_empty() {
            lsp.insert("cache".to_owned(), Value::Array(all));
        }
    }
}

/// Converts the cache entries into `cache` and `state` of a table.
fn of_caches(key: &str, entries: Option<Value>, over: &mut Table, left: &mut Vec<String>) {
    let Some(Value::Array(entries)) = entries else { return };
    for entry in entries {
        let table = entry.as_table();
        let guest = table.and_then(|table| table.get("guest")).unwrap_or(&entry).clone();
        let is_state = table.and_then(|table| table.get("noGC")).and_then(Value::as_bool) == Some(true);
        // Programs ran as root then, and run as the user now.
        let guest = match guest.as_str().and_then(|path| path.strip_prefix("/root/")) {
            Some(rest) => Value::String(format!("~/{rest}")),
            None => guest,
        };
        if table.is_some_and(|table| table.contains_key("host")) {
            left.push(format!("{key}.cache: the host directory of {guest}; each project now has its own in ~/.silo"));
        }
        let list = over.entry(if is_state { "state" } else { "cache" }).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list {
            list.push(guest);
        }
    }
}

/// Converts YAML to TOML values. Aliases are refused, because they can expand without limit.
struct Reader<'a> {
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, String> {
        match self.events.next() {
            Some(Ok((Event::Alias(_), span))) => Err(format!("line {}: aliases are not supported; write the value out", span.start.line())),
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(format!("line {}: {}", error.marker().line(), error.info())),
            None => Ok(Event::StreamEnd),
        }
    }

    fn document(mut self) -> Result<Option<Value>, String> {
        loop {
            match self.next()? {
                Event::StreamEnd => return Ok(None),
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                event => return self.value(event, 0),
            }
        }
    }

    /// Converts the value that starts with an event; `None` for a null.
    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Option<Value>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels of lists and tables"));
        }
        Ok(match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text),
            Event::Scalar(text, ..) => Some(Value::String(text.into_owned())),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break Some(Value::Array(list)),
                        event => list.extend(self.value(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut table = Table::new();
                loop {
                    let key = match self.next()? {
                        Event::MappingEnd => break Some(Value::Table(table)),
                        Event::Scalar(text, ..) => text.into_owned(),
                        _ => return Err("a key is not a word".to_owned()),
                    };
                    let event = self.next()?;
                    if let Some(value) = self.value(event, depth + 1)?
                        && table.insert(key.clone(), value).is_some()
                    {
                        return Err(format!("{key} is there twice"));
                    }
                }
            }
            _ => return Err("the text ends too early".to_owned()),
        })
    }
}

/// Converts an unquoted scalar.
fn plain(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => None,
        "true" | "True" | "TRUE" => Some(Value::Boolean(true)),
        "false" | "False" | "FALSE" => Some(Value::Boolean(false)),
        text => Some(text.parse::<i64>().map_or_else(|_| Value::String(text.to_owned()), Value::Integer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::parse;

    fn convert(yaml: &str) -> Result<ConvertedSettings, Error> {
        to_toml(yaml, Path::new(".siloconf"), SettingsOwner::Project)
    }

    #[test]
    fn older_settings_say_the_same_in_todays_form() {
        let yaml = "# ours\ntools: [python, \"node\"]\npassEnv:\n  - TOKEN\npassSshAgent: true\nmount:\n  mode: ro\n  exclude: [node_modules]\n\
            project_id: abc\ncache:\n  rootfs: {maxSizeMB: 1}\noverrides:\n  python:\n    image: docker.io/library/python:3.12-slim\n    \
            env: {A: \"1\", B: b}\n    memoryMB: 512\n    network:\n      hostAccess: true\n      proxy:\n        allow: [\"*.example.com\"]\n    \
            ports:\n      - {host: 8080, guest: 80}\n    postInstall:\n      - |\n        apt-get update && true\n    \
            cache:\n      - {guest: /root/.cache/pip, host: \"~/.silo/cache/x\", sizeHint: 1G}\n      - {guest: /root/.login, noGC: true}\n    \
            lsp: {command: [a], install: b, cache: [{guest: /root/.cache/c, host: \"~/x\"}]}\n  node:\n";
        let taken = convert(yaml).expect("it is read");
        let settings = parse(&taken.text, Path::new("silo.toml")).expect("it is a silo.toml");
        let expect = "tools = [\"python\", \"node\"]\npassEnv = [\"TOKEN\"]\npassSshAgent = true\nprojectId = \"abc\"\n\
            mount = { mode = \"ro\", exclude = [\"node_modules\"] }\n[overrides.python]\nenv = { A = \"1\", B = \"b\" }\nmemoryMB = 512\n\
            network = { hostAccess = true, proxy = { allow = [\"*.example.com\"] } }\nports = [{ host = 8080, guest = 80 }]\n\
            postInstall = [\"apt-get update && true\\n\"]\ncache = [\"~/.cache/pip\"]\nstate = [\"~/.login\"]\n\
            lsp = { command = [\"a\"], install = \"b\", cache = [\"~/.cache/c\"] }\n";
        assert_eq!(settings, parse(expect, Path::new("silo.toml")).expect("it is a silo.toml"), "{}", taken.text);
        assert_eq!(
            taken.left.iter().map(|left| left.split(':').next().unwrap_or_default()).collect::<Vec<_>>(),
            ["cache", "overrides.python.image", "overrides.python.cache", "overrides.python.lsp.cache"]
        );
        assert_eq!(super::to_toml("", Path::new("x"), SettingsOwner::User).expect("nothing").text, "");
    }

    #[test]
    fn invalid_settings_are_reported() {
        let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
        for (yaml, expect) in [
            ("a: &x [1]\nb: *x\n", "line 2: aliases are not supported"),
            ("- a\n", "not a table"),
            ("a: [1\n", "line "),
            ("a: 1\na: 2\n", "a is there twice"),
            ("? [a]\n: 1\n", "a key is not a word"),
            (deep.as_str(), "more than 16 levels"),
        ] {
            let error = convert(yaml).expect_err(yaml).to_string();
            assert!(error.starts_with(".siloconf: ") && error.contains(expect), "{error}");
        }
    }
}
