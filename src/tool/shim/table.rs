//! The table of shims, `~/.silo/shims`: the tools that have shims, the names of the shims, and the pinned tools.
//!
//! Each call of a shim reads the table, so its format is short lines that need little parsing:
//!
//! ```text
//! silo shims 1
//! tool python pinned
//! shim pip
//! shim python
//! alias ipython python -m IPython
//! hidden pip3
//! local poetry
//! tool node free
//! ```
//!
//! The oldest tool comes first. `shim` is a command of the tool's recipe. `alias` is a command that the user added, with the command line
//! to run. `hidden` is a command of the recipe that the user removed. `local` is a command that the tool has in some project only, from an
//! add-on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use silo_model::document;
use silo_model::recipe::check::check_name;

/// The first line.
const HEAD: &str = "silo shims 1";

/// The tools that have shims, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The tools.
    pub tools: Vec<Entry>,
}

/// The shims of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tool.
    pub tool: String,
    /// True if the tool is pinned: its shims run it everywhere.
    pub pinned: bool,
    /// Its shims, by the name that is typed.
    pub shims: BTreeMap<String, Shim>,
}

/// Origin of a shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shim {
    /// The recipe, which defines its command line.
    Recipe,
    /// The user, with the command line to run.
    Alias(Vec<String>),
    /// The recipe, but the user removed it.
    Hidden,
    /// An add-on of some project; elsewhere the tool has no such command.
    Local,
}

impl Table {
    /// Finds the tools that have a command of this name, the oldest first.
    pub fn owners<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a Entry> + use<'a, 'n> {
        self.tools.iter().filter(move |entry| entry.answers(name))
    }

    /// Finds a tool's entry.
    pub fn get(&self, tool: &str) -> Option<&Entry> {
        self.tools.iter().find(|entry| entry.tool == tool)
    }

    /// Returns a tool's entry; if there is none, appends an empty one.
    pub fn entry(&mut self, tool: &str) -> &mut Entry {
        let at = self.tools.iter().position(|entry| entry.tool == tool).unwrap_or_else(|| {
            self.tools.push(Entry { tool: tool.to_owned(), pinned: false, shims: BTreeMap::new() });
            self.tools.len() - 1
        });
        &mut self.tools[at]
    }

    /// Returns every name that some tool has a command of.
    pub fn names(&self) -> std::collections::BTreeSet<&str> {
        self.tools
            .iter()
            .flat_map(|entry| entry.shims.iter().filter(|(_, shim)| **shim != Shim::Hidden).map(|(name, _)| name.as_str()))
            .collect()
    }
}

impl Entry {
    /// Returns true if the tool has a command of this name, in any project.
    pub fn answers(&self, name: &str) -> bool {
        self.shims.get(name).is_some_and(|shim| *shim != Shim::Hidden)
    }

    /// Returns true if the tool has a command of this name everywhere, not only in some project.
    pub fn answers_everywhere(&self, name: &str) -> bool {
        matches!(self.shims.get(name), Some(Shim::Recipe | Shim::Alias(_)))
    }

    /// Returns the command line that the user gave to a name.
    pub fn alias(&self, name: &str) -> Option<&[String]> {
        match self.shims.get(name) {
            Some(Shim::Alias(words)) => Some(words),
            Some(Shim::Recipe | Shim::Hidden | Shim::Local) | None => None,
        }
    }
}

/// Returns true if a name is valid as a shim: it can be typed as a command and is a safe file name.
pub fn is_shim_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    name.len() <= 255 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

/// Reads the table at a path; a missing file is an empty table.
pub fn read(path: &Path) -> Result<Table, document::Error> {
    match document::text_of(path)? {
        Some(text) => parse(&text).map_err(|line| wrong(path, line)),
        None => Ok(Table::default()),
    }
}

fn wrong(path: &Path, line: usize) -> document::Error {
    let message = format!("line {line} is not valid in the table of shims of this version; `silo doctor --fix` rebuilds the table");
    document::Error::Meaning { path: path.to_owned(), message }
}

/// Parses a table; the error is the number of the first wrong line.
pub fn parse(text: &str) -> Result<Table, usize> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Err(1);
    }
    let mut table = Table::default();
    for (at, line) in lines.enumerate() {
        parse_line(line, &mut table).ok_or(at + 2)?;
    }
    Ok(table)
}

fn parse_line(line: &str, table: &mut Table) -> Option<()> {
    let mut words = line.split(' ');
    let (kind, name) = (words.next()?, words.next()?);
    let rest: Vec<String> = words.map(str::to_owned).collect();
    let shim = match (kind, rest.as_slice()) {
        ("tool", [pin]) if check_name(name).is_ok() && table.get(name).is_none() => {
            let pinned = match pin.as_str() {
                "pinned" => true,
                "free" => false,
                _ => return None,
            };
            table.tools.push(Entry { tool: name.to_owned(), pinned, shims: BTreeMap::new() });
            return Some(());
        }
        ("shim", []) => Shim::Recipe,
        ("hidden", []) => Shim::Hidden,
        ("local", []) => Shim::Local,
        ("alias", [first, ..]) if !first.is_empty() => Shim::Alias(rest),
        _ => return None,
    };
    let entry = table.tools.last_mut().filter(|_| is_shim_name(name))?;
    entry.shims.insert(name.to_owned(), shim).is_none().then_some(())
}

/// Encodes a table in the format that [`parse`] reads.
pub fn write(table: &Table) -> String {
    let mut text = format!("{HEAD}\n");
    for entry in &table.tools {
        let pin = if entry.pinned { "pinned" } else { "free" };
        writeln!(text, "tool {} {pin}", entry.tool).expect("writing to a string cannot fail");
        for (name, shim) in &entry.shims {
            let line = match shim {
                Shim::Recipe => writeln!(text, "shim {name}"),
                Shim::Hidden => writeln!(text, "hidden {name}"),
                Shim::Local => writeln!(text, "local {name}"),
                Shim::Alias(words) => writeln!(text, "alias {name} {}", words.join(" ")),
            };
            line.expect("writing to a string cannot fail");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "silo shims 1\ntool python pinned\nalias ipython python -m IPython\nshim pip\nhidden pip3\nlocal poetry\ntool node free\nshim npm\n";

    #[test]
    fn tables_are_stable_under_reading_and_writing() {
        let table = parse(TEXT).expect("a table");
        assert_eq!(write(&table), TEXT);
        let owners = |name: &str| table.owners(name).map(|entry| entry.tool.clone()).collect::<Vec<_>>();
        assert_eq!((owners("pip"), owners("pip3"), owners("npm")), (vec!["python".to_owned()], vec![], vec!["node".to_owned()]));
        assert_eq!(table.get("python").and_then(|entry| entry.alias("ipython")).map(<[String]>::len), Some(3));
        assert_eq!(table.names().into_iter().collect::<Vec<_>>(), ["ipython", "npm", "pip", "poetry"]);
    }

    #[test]
    fn wrong_lines_are_reported_by_number() {
        for (text, line) in [
            ("", 1),
            ("silo shims 2\n", 1),
            ("silo shims 1\nshim x\n", 2),
            ("silo shims 1\ntool ../x free\n", 2),
            ("silo shims 1\ntool a free\nshim ../x\n", 3),
            ("silo shims 1\ntool a free\nshim x\nshim x\n", 4),
            ("silo shims 1\ntool a free\nalias x\n", 3),
            ("silo shims 1\ntool a maybe\n", 2),
            ("silo shims 1\ntool a free\n\n", 3),
        ] {
            assert_eq!(parse(text), Err(line), "{text:?}");
        }
    }
}
