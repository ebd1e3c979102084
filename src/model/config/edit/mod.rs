//! Edits the text of a `silo.toml`; comments, order and spelling of everything else stay.

mod comments;
mod error;
mod step;

mod lists;

use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use silo_base::grant::Port;

use comments::{above, prefix};
use lists::{list, one_a_line, push, remove, same};

pub use error::Error;
pub use step::NewStep;

/// A `silo.toml` during an edit.
#[derive(Debug)]
pub struct Document {
    toml: DocumentMut,
    /// Comments of a text without keys; additions go after them.
    lead: String,
    /// Original text, returned unchanged if nothing is edited.
    original: String,
    /// The original text as the TOML library writes it.
    unchanged: String,
    /// True for Windows line endings.
    crlf: bool,
}

/// A byte order mark, which some editors write first.
const BYTE_ORDER_MARK: char = '\u{feff}';

impl Document {
    /// Parses a text; an empty text is an empty document.
    pub fn parse(text: &str) -> Result<Document, Error> {
        let original = text.to_owned();
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let ends = text.matches('\n').count();
        let crlf = text.matches("\r\n").count() * 2 > ends;
        let text = text.replace("\r\n", "\n");
        let toml: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| Error::Syntax(error.to_string()))?;
        let unchanged = toml.to_string();
        if toml.as_table().is_empty() {
            return Ok(Document { toml: DocumentMut::new(), lead: text, original, unchanged: String::new(), crlf });
        }
        Ok(Document { toml, lead: String::new(), original, unchanged, crlf })
    }

    /// Returns the text.
    pub fn text(&self) -> String {
        let text = self.toml.to_string();
        if text == self.unchanged {
            return self.original.clone();
        }
        let between = if self.lead.trim().is_empty() || text.is_empty() { "" } else { "\n" };
        let text = format!("{}{between}{text}", self.lead);
        let text = if self.crlf { text.replace('\n', "\r\n") } else { text };
        if self.original.starts_with(BYTE_ORDER_MARK) { format!("{BYTE_ORDER_MARK}{text}") } else { text }
    }

    /// Sets a list of strings at a path of keys; creates missing tables.
    pub fn list_of<'a>(&mut self, path: &[&str], texts: impl Iterator<Item = &'a str>) -> Result<(), Error> {
        let mut table = self.toml.as_table_mut();
        let (last, above) = path.split_last().expect("a path has a name");
        for name in above {
            let item = table.entry(name).or_insert_with(|| Item::Table(Table::new()));
            table = item.as_table_mut().ok_or_else(|| Error::Kind { key: (*name).to_owned(), kind: "a table" })?;
        }
        table.insert(last, toml_edit::value(texts.collect::<Array>()));
        Ok(())
    }

    /// Adds a tool to `tools`; returns false if it is there already.
    pub fn claim(&mut self, tool: &str) -> Result<bool, Error> {
        let tools = self.toml.as_table_mut().entry("tools").or_insert_with(|| Item::Value(Value::Array(Array::new())));
        let tools = list(tools, "tools")?;
        if tools.iter().any(|value| value.as_str().is_some_and(|entry| names(entry, tool))) {
            return Ok(false);
        }
        push(tools, tool)
    }

    /// Removes a tool from `tools`; returns whether it was there.
    pub fn disclaim(&mut self, tool: &str) -> Result<bool, Error> {
        let Some(tools) = self.toml.as_table_mut().get_mut("tools") else { return Ok(false) };
        Ok(remove(list(tools, "tools")?, |value| value.as_str().is_some_and(|entry| names(entry, tool))) > 0)
    }

    /// Sets the version of a tool.
    pub fn set_version(&mut self, tool: &str, version: &str) -> Result<(), Error> {
        self.forget_version_in_tools(tool);
        self.over(tool)?.insert("version", toml_edit::value(version));
        Ok(())
    }

    /// Removes the version of a tool; returns whether there was one.
    pub fn unset_version(&mut self, tool: &str) -> Result<bool, Error> {
        let listed = self.forget_version_in_tools(tool);
        let removed = self.over(tool)?.remove("version").is_some();
        self.prune(tool);
        Ok(removed || listed)
    }

    /// Replaces `python@3.13` in `tools` by `python`; returns whether it was there.
    fn forget_version_in_tools(&mut self, tool: &str) -> bool {
        let tools = self.toml.as_table_mut().get_mut("tools").and_then(Item::as_array_mut);
        let versioned = |value: &&mut Value| value.as_str().is_some_and(|entry| entry != tool && names(entry, tool));
        let Some(entry) = tools.and_then(|tools| tools.iter_mut().find(versioned)) else { return false };
        let decor = entry.decor().clone();
        *entry = Value::from(tool);
        *entry.decor_mut() = decor;
        true
    }

    /// Adds a string to a list of a tool; returns false if it is there already.
    pub fn add(&mut self, tool: &str, key: &str, text: &str) -> Result<bool, Error> {
        push(self.list(tool, key)?, text)
    }

    /// Adds a command to a tool's `postInstall`; returns false if it is there already.
    pub fn add_step(&mut self, tool: &str, step: &NewStep) -> Result<bool, Error> {
        let value = step.value();
        let steps = self.list(tool, "postInstall")?;
        if steps.iter().any(|old| same(old, &value)) {
            return Ok(false);
        }
        steps.push(value);
        one_a_line(steps);
        Ok(true)
    }

    /// Removes the command with this number, from 1, or all commands from a tool's `postInstall`; returns the number of removed ones.
    pub fn remove_steps(&mut self, tool: &str, which: Option<usize>) -> Result<usize, Error> {
        let mut number = 0;
        let removed = remove(self.list(tool, "postInstall")?, |_| {
            number += 1;
            which.is_none_or(|which| which == number)
        });
        if self.list(tool, "postInstall")?.is_empty() {
            self.over(tool)?.remove("postInstall");
        }
        self.prune(tool);
        Ok(removed)
    }

    /// Adds a host to `allow` or `deny` of a tool or of all tools; returns false if it is there already.
    pub fn add_grant(&mut self, tool: Option<&str>, key: &str, grant: &str) -> Result<bool, Error> {
        push(self.grants(tool, key)?, grant)
    }

    /// Removes a host from `allow` and `deny` of a tool or of all tools; returns whether it was there.
    pub fn remove_grant(&mut self, tool: Option<&str>, grant: &str) -> Result<bool, Error> {
        let mut removed = 0;
        for key in ["allow", "deny"] {
            removed += remove(self.grants(tool, key)?, |value| value.as_str() == Some(grant));
            if self.grants(tool, key)?.is_empty() {
                self.network(tool)?.remove(key);
            }
        }
        if self.network(tool)?.is_empty() {
            let table = match tool {
                Some(tool) => self.over(tool)?,
                None => self.toml.as_table_mut(),
            };
            let left = table.remove_entry("network").map(above);
            comments::keep(&mut self.toml, left.into_iter().collect());
        }
        if let Some(tool) = tool {
            self.prune(tool);
        }
        Ok(removed > 0)
    }

    /// Adds a port forward to a tool; returns false if it is there already.
    pub fn add_port(&mut self, tool: &str, port: Port) -> Result<bool, Error> {
        if self.take_ports(tool, |old| old == port, EntryAction::Look)? > 0 {
            return Ok(false);
        }
        self.take_ports(tool, |old| old.host == port.host, EntryAction::Out)?;
        let mut table = InlineTable::new();
        table.insert("host", i64::from(port.host.get()).into());
        table.insert("guest", i64::from(port.guest.get()).into());
        let item = self.over(tool)?.entry("ports").or_insert_with(|| Item::Value(Value::Array(Array::new())));
        match item.as_array_of_tables_mut() {
            Some(tables) => tables.push(table.into_table()),
            None => list(item, &format!("overrides.{tool}.ports"))?.push(table),
        }
        Ok(true)
    }

    /// Removes a port forward of a tool; returns whether it was there.
    pub fn remove_port(&mut self, tool: &str, port: Port) -> Result<bool, Error> {
        let removed = self.take_ports(tool, |old| old == port, EntryAction::Out)?;
        self.prune(tool);
        Ok(removed > 0)
    }

    /// Finds the matching ports of a tool, in both TOML spellings, and removes them with `Take::Out`; returns their number.
    fn take_ports(&mut self, tool: &str, wanted: impl Fn(Port) -> bool, take: EntryAction) -> Result<usize, Error> {
        let over = self.over(tool)?;
        let Some(item) = over.get_mut("ports") else { return Ok(0) };
        let is_wanted = |table: &dyn TableLike| {
            let number = |key| table.get(key).and_then(Item::as_integer).and_then(|number| u16::try_from(number).ok()?.try_into().ok());
            number("host").zip(number("guest")).is_some_and(|(host, guest)| wanted(Port { host, guest }))
        };
        let found;
        let mut left = Vec::new();
        if let Some(tables) = item.as_array_of_tables_mut() {
            found = tables.iter().filter(|table| is_wanted(*table)).count();
            if take == EntryAction::Out {
                left.extend(tables.iter().filter(|table| is_wanted(*table)).map(|table| (prefix(table.decor()), table.position())));
                tables.retain(|table| !is_wanted(table));
            }
        } else {
            let ports = list(item, &format!("overrides.{tool}.ports"))?;
            let is_it = |value: &Value| value.as_inline_table().is_some_and(|table| is_wanted(table));
            found = match take {
                EntryAction::Look => ports.iter().filter(|value| is_it(value)).count(),
                EntryAction::Out => remove(ports, is_it),
            };
        }
        let is_empty = item.as_array().is_some_and(Array::is_empty) || item.as_array_of_tables().is_some_and(ArrayOfTables::is_empty);
        if is_empty {
            left.extend(over.remove_entry("ports").map(above));
        }
        comments::keep(&mut self.toml, left);
        Ok(found)
    }

    fn grants(&mut self, tool: Option<&str>, key: &str) -> Result<&mut Array, Error> {
        let item = self.network(tool)?.entry(key).or_insert_with(|| Item::Value(Value::Array(Array::new())));
        list(item, &format!("network.{key}"))
    }

    /// Returns the network table of a tool, or of all tools; creates it if missing.
    fn network(&mut self, tool: Option<&str>) -> Result<&mut Table, Error> {
        let table = match tool {
            Some(tool) => {
                let over = self.over(tool)?;
                // A table that holds only another table needs no header line.
                if over.is_empty() {
                    over.set_implicit(true);
                }
                over
            }
            None => self.toml.as_table_mut(),
        };
        let network = table.entry("network").or_insert_with(|| Item::Table(Table::new()));
        if let Some(inline) = network.as_inline_table() {
            *network = Item::Table(inline.clone().into_table());
        }
        network.as_table_mut().ok_or_else(|| Error::Kind { key: "network".to_owned(), kind: "a table" })
    }

    fn list(&mut self, tool: &str, key: &str) -> Result<&mut Array, Error> {
        let item = self.over(tool)?.entry(key).or_insert_with(|| Item::Value(Value::Array(Array::new())));
        list(item, &format!("overrides.{tool}.{key}"))
    }

    /// Returns the override table of a tool; creates it if missing.
    fn over(&mut self, tool: &str) -> Result<&mut Table, Error> {
        let kind = |key: String| Error::Kind { key, kind: "a table" };
        let implicit = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        let overrides = self.toml.as_table_mut().entry("overrides").or_insert_with(implicit);
        let overrides = overrides.as_table_mut().ok_or_else(|| kind("overrides".to_owned()))?;
        let over = overrides.entry(tool).or_insert_with(|| Item::Table(Table::new()));
        if let Some(inline) = over.as_inline_table() {
            // An inline table would become unreadable with additions.
            *over = Item::Table(inline.clone().into_table());
        }
        over.as_table_mut().ok_or_else(|| kind(format!("overrides.{tool}")))
    }

    /// Removes a tool's override table, and the table of all overrides, if empty.
    fn prune(&mut self, tool: &str) {
        let Some(overrides) = self.toml.as_table_mut().get_mut("overrides").and_then(Item::as_table_mut) else { return };
        let mut left = Vec::new();
        if overrides.get(tool).and_then(Item::as_table).is_some_and(Table::is_empty) {
            left.extend(overrides.remove_entry(tool).map(above));
        }
        if overrides.is_empty() {
            left.extend(self.toml.as_table_mut().remove_entry("overrides").map(above));
        }
        comments::keep(&mut self.toml, left);
    }
}

/// Action on found entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryAction {
    /// Only count them.
    Look,
    /// Remove them.
    Out,
}

/// True if an entry of `tools` names this tool, with or without a version.
fn names(entry: &str, tool: &str) -> bool {
    entry.split('@').next() == Some(tool)
}

#[cfg(test)]
mod tests {
    use silo_base::grant::Grant;

    use super::*;

    fn step(words: &[&str], network: &[&str], project: bool) -> NewStep {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        NewStep {
            run: owned(words),
            shell: false,
            network: network.iter().map(|text| Grant::parse(text).expect("a grant")).collect(),
            project,
        }
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# my tools\ntools = [\"node\"] # two\n\n[overrides.python]\n# why\nenv = { A = \"1\" }\n";
        let mut document = Document::parse(text).expect("TOML");
        assert_eq!(document.claim("python"), Ok(true));
        assert_eq!(document.claim("python"), Ok(false));
        assert_eq!(document.add("python", "packages", "jq"), Ok(true));
        assert_eq!(document.add_step("python", &step(&["pip", "install", "a>=2"], &["@pypi"], true)), Ok(true));
        assert_eq!(document.add_step("python", &step(&["pip", "install", "a>=2"], &["@pypi"], true)), Ok(false));
        assert_eq!(document.add_step("python", &step(&["true"], &[], false)), Ok(true));
        assert_eq!(
            document.text(),
            "# my tools\ntools = [\"node\", \"python\"] # two\n\n[overrides.python]\n# why\nenv = { A = \"1\" }\npackages = [\"jq\"]\npostInstall = [\n    { run = [\"pip\", \"install\", \"a>=2\"], network = [\"@pypi\"], project = true },\n    [\"true\"],\n]\n"
        );
        assert_eq!(document.remove_steps("python", Some(1)), Ok(1));
        assert_eq!(document.remove_steps("python", None), Ok(1));
        assert_eq!(document.disclaim("node"), Ok(true));
        assert_eq!(
            document.text(),
            "# my tools\ntools = [\"python\"] # two\n\n[overrides.python]\n# why\nenv = { A = \"1\" }\npackages = [\"jq\"]\n"
        );
    }

    #[test]
    fn line_ends_and_comments_of_lists_stay() {
        let text = "tools = [\r\n  \"python\", # why\r\n]\r\n# a note\r\n[network]\r\nallow = [\"a.example\"]\r\n";
        let mut document = Document::parse(text).expect("TOML");
        assert_eq!(document.text(), text);
        assert_eq!(document.claim("node"), Ok(true));
        assert_eq!(document.add_grant(None, "allow", "b.example"), Ok(true));
        let expect =
            "tools = [\r\n  \"python\", # why\r\n  \"node\",\r\n]\r\n# a note\r\n[network]\r\nallow = [\"a.example\", \"b.example\"]\r\n";
        assert_eq!(document.text(), expect);
        // A file with mixed line endings stays unchanged until something is edited.
        let mixed = "\u{feff}tools = []\r\n# a\n";
        let mut document = Document::parse(mixed).expect("TOML");
        assert_eq!(document.text(), mixed);
        assert_eq!(document.claim("sh"), Ok(true));
        assert_eq!(document.text(), "\u{feff}tools = [\"sh\"]\n# a\n");
    }

    #[test]
    fn empty_tables_are_removed() {
        let mut document = Document::parse("").expect("nothing is TOML");
        document.set_version("python", "3.13").expect("a table");
        assert_eq!(document.text(), "[overrides.python]\nversion = \"3.13\"\n");
        assert_eq!(document.unset_version("python"), Ok(true));
        assert_eq!(document.text(), "");
        assert_eq!(document.unset_version("python"), Ok(false));
        assert_eq!(document.text(), "");
        let mut document = Document::parse("# mine\n").expect("a comment is TOML");
        assert_eq!(document.text(), "# mine\n");
        document.claim("python").expect("a list");
        assert_eq!(document.text(), "# mine\n\ntools = [\"python\"]\n");
    }

    #[test]
    fn comments_above_emptied_tables_stay() {
        type Edit = fn(&mut Document) -> Result<bool, Error>;
        let unset: Edit = |document| document.unset_version("python");
        let ungrant: Edit = |document| document.remove_grant(None, "a.example");
        let ungrant_of_tool: Edit = |document| document.remove_grant(Some("t"), "a.example");
        let unport: Edit = |document| document.remove_port("t", Port::parse("1:2").expect("a port"));
        for (text, edit, expect) in [
            (
                "tools = [\"python\"]\n\n# ours\n# why\n[overrides.python]\nversion = \"3.13\"\n",
                unset,
                "tools = [\"python\"]\n\n# ours\n# why\n",
            ),
            (
                "# a\n[overrides.python]\nversion = \"3.13\"\n\n# b\n[overrides.node]\nversion = \"22\"\n",
                unset,
                "# a\n\n# b\n[overrides.node]\nversion = \"22\"\n",
            ),
            (
                "[mount]\nmode = \"ro\"\n# a\n[overrides]\n# b\npython = { version = \"3.13\" }\n# c\n",
                unset,
                "[mount]\nmode = \"ro\"\n# b\n# a\n# c\n",
            ),
            ("# a\n[network]\nallow = [\"a.example\"]\n# b\n[mount]\ngit = \"ro\"\n", ungrant, "# a\n# b\n[mount]\ngit = \"ro\"\n"),
            ("# a\n[overrides.t.network]\nallow = [\"a.example\"]\n# end\n", ungrant_of_tool, "# a\n# end\n"),
            ("# a\n[[overrides.t.ports]]\nhost = 1\nguest = 2\n", unport, "# a\n"),
        ] {
            for (text, expect) in [(text.to_owned(), expect.to_owned()), (text.replace('\n', "\r\n"), expect.replace('\n', "\r\n"))] {
                let mut document = Document::parse(&text).expect("TOML");
                assert_eq!(edit(&mut document), Ok(true), "{text}");
                assert_eq!(document.text(), expect, "{text}");
                Document::parse(&document.text()).expect("TOML");
            }
        }
    }

    #[test]
    fn grants_come_and_go() {
        let mut document = Document::parse("# mine\ntools = [\"a\"]\n").expect("TOML");
        assert_eq!(document.add_grant(None, "allow", "b.example"), Ok(true));
        assert_eq!(document.add_grant(None, "allow", "b.example"), Ok(false));
        assert_eq!(document.add_grant(Some("t"), "deny", "c.example:22"), Ok(true));
        let text = "# mine\ntools = [\"a\"]\n\n[network]\nallow = [\"b.example\"]\n\n[overrides.t.network]\ndeny = [\"c.example:22\"]\n";
        assert_eq!(document.text(), text);
        assert_eq!(document.remove_grant(Some("t"), "c.example:22"), Ok(true));
        assert_eq!(document.remove_grant(None, "x"), Ok(false));
        assert_eq!(document.remove_grant(None, "b.example"), Ok(true));
        assert_eq!(document.text(), "# mine\ntools = [\"a\"]\n");
    }

    #[test]
    fn a_version_beside_the_name_is_one_version() {
        let mut document = Document::parse("tools = [\n  \"python@3.12\", # why\n]\n").expect("TOML");
        assert_eq!(document.claim("python"), Ok(false));
        document.set_version("python", "3.13").expect("a table");
        assert_eq!(document.text(), "tools = [\n  \"python\", # why\n]\n\n[overrides.python]\nversion = \"3.13\"\n");
        let mut document = Document::parse("tools = [\"python@3.12\", \"node@22\"]\n").expect("TOML");
        assert_eq!(document.unset_version("node"), Ok(true));
        assert_eq!(document.disclaim("python"), Ok(true));
        assert_eq!(document.text(), "tools = [\"node\"]\n");
    }

    #[test]
    fn other_kinds_are_refused() {
        let mut document = Document::parse("tools = 1\noverrides = 2\n").expect("TOML");
        assert_eq!(document.claim("x").expect_err("a number").to_string(), "tools is not a list");
        assert_eq!(document.set_version("x", "1").expect_err("a number").to_string(), "overrides is not a table");
        assert!(Document::parse("a = ").is_err());
    }

    #[test]
    fn ports_come_and_go_whichever_way_they_are_written() {
        let port = |text: &str| Port::parse(text).expect("a port");
        let mut document = Document::parse("# mine\ntools = []\n\n[[overrides.t.ports]]\nhost = 1\nguest = 2\n").expect("TOML");
        assert_eq!(document.add_port("t", port("1:2")), Ok(false));
        assert_eq!(document.add_port("t", port("3:4")), Ok(true));
        assert_eq!(document.add_port("t", port("1:5")), Ok(true), "one port of a machine leads to one place");
        let text = document.text();
        let settings: crate::config::Settings = toml::from_str(&text).expect("settings");
        let ports: Vec<String> = settings.ports("t").iter().map(Port::to_string).collect();
        assert_eq!(ports, ["3:4", "1:5"], "{text}");
        assert!(text.starts_with("# mine"), "{text}");
        assert_eq!(document.remove_port("t", port("1:2")), Ok(false));
        assert_eq!(document.remove_port("t", port("1:5")), Ok(true));
        assert_eq!(document.remove_port("t", port("3:4")), Ok(true));
        assert!(!document.text().contains("overrides"), "{}", document.text());
        assert!(Document::parse("overrides.t.ports = 1").expect("TOML").add_port("t", port("1")).is_err());
    }
}
