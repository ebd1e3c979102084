//! `.helix/languages.toml`: a server `silo-TOOL`, and its name first in the lists of its languages.

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::languages::{Direction, Error, Languages};

const SERVERS: &str = "language-server";
const LANGUAGES: &str = "language";
const LIST: &str = "language-servers";

pub fn change(file: &'static str, known: &[&Languages], direction: Direction, before: &str) -> Result<String, Error> {
    let mut document: DocumentMut =
        before.parse().map_err(|error: toml_edit::TomlError| Error::Invalid { file, reason: shortened(error.to_string().trim_end()) })?;
    for languages in known {
        let name = format!("silo-{}", languages.tool);
        match direction {
            Direction::Add => add(file, &mut document, languages, &name)?,
            Direction::Remove => remove(&mut document, languages, &name),
        }
    }
    Ok(document.to_string())
}

/// Shortens the lines of an error, which quotes the line of the file.
fn shortened(error: &str) -> String {
    const MOST: usize = 200;
    error.lines().map(|line| line.chars().take(MOST).collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// The command of a server.
fn server(tool: &str) -> Table {
    let mut table = Table::new();
    table.insert("command", toml_edit::value("silo"));
    table.insert("args", toml_edit::value(Array::from_iter(["lsp", tool])));
    table
}

/// Returns true if an item has this server's command and arguments only.
fn is_server(item: &Item, tool: &str) -> bool {
    let Some(table) = item.as_table_like() else { return false };
    let arguments = table.get("args").and_then(Item::as_array);
    let arguments: Vec<&str> = arguments.into_iter().flatten().filter_map(Value::as_str).collect();
    table.len() == 2 && table.get("command").and_then(Item::as_str) == Some("silo") && arguments == ["lsp", tool]
}

fn add(file: &'static str, document: &mut DocumentMut, languages: &Languages, name: &str) -> Result<(), Error> {
    let invalid = |reason: &str| Error::Invalid { file, reason: reason.to_owned() };
    let all = document.entry(LANGUAGES).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()));
    let all = all.as_array_of_tables_mut().ok_or_else(|| invalid("language is no list of tables"))?;
    for language in languages.helix {
        let found = all.iter().position(|table| is_language(table, language));
        let at = match found {
            Some(at) => at,
            None => {
                let mut table = Table::new();
                table.insert("name", toml_edit::value(*language));
                all.push(table);
                all.len() - 1
            }
        };
        let Some(table) = all.get_mut(at) else { continue };
        let list = table.entry(LIST).or_insert_with(|| toml_edit::value(Array::new()));
        let list = list.as_array_mut().ok_or_else(|| invalid("language-servers is no list"))?;
        if !list.iter().any(|one| one.as_str() == Some(name)) {
            list.insert(0, name);
        }
    }
    let servers = document.entry(SERVERS).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let servers = servers.as_table_like_mut().ok_or_else(|| invalid("language-server is no table"))?;
    match servers.get(name) {
        Some(found) if is_server(found, languages.tool) => {}
        Some(_) => return Err(Error::Differs { file, key: format!("{SERVERS}.{name}") }),
        None => {
            let table = server(languages.tool);
            drop(servers.insert(name, Item::Table(table)));
        }
    }
    Ok(())
}

fn is_language(table: &Table, name: &str) -> bool {
    table.get("name").and_then(Item::as_str) == Some(name)
}

fn remove(document: &mut DocumentMut, languages: &Languages, name: &str) {
    let Some(servers) = document.get_mut(SERVERS).and_then(Item::as_table_like_mut) else { return };
    if !servers.get(name).is_some_and(|found| is_server(found, languages.tool)) {
        return;
    }
    servers.remove(name);
    if servers.is_empty() {
        document.remove(SERVERS);
    }
    let Some(all) = document.get_mut(LANGUAGES).and_then(Item::as_array_of_tables_mut) else { return };
    for table in all.iter_mut() {
        let Some(list) = table.get_mut(LIST).and_then(Item::as_array_mut) else { continue };
        list.retain(|one| one.as_str() != Some(name));
        if list.is_empty() {
            table.remove(LIST);
        }
    }
    all.retain(|table| table.len() > 1 || !languages.helix.iter().any(|language| is_language(table, language)));
    if all.is_empty() {
        document.remove(LANGUAGES);
    }
}
