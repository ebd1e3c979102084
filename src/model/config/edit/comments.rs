//! Comments of a `silo.toml` during an edit: those above a removed table stay.

use toml_edit::{Decor, DocumentMut, Item, Key, RawString, Table};

/// Returns the text above a table or value.
pub fn prefix(decor: &Decor) -> String {
    decor.prefix().and_then(RawString::as_str).unwrap_or_default().to_owned()
}

/// The text above a removed table, and the table's position in the document.
pub type Above = (String, Option<isize>);

/// Returns the text above a removed table; one that was written in one line has it above its key.
pub fn above((key, item): (Key, Item)) -> Above {
    match item.as_table().map(|table| (prefix(table.decor()), table.position())) {
        Some((text, position)) if !text.is_empty() => (text, position),
        found => (prefix(key.leaf_decor()), found.and_then(|(_, position)| position)),
    }
}

/// Finds the first table that is written after a position.
fn next_table(table: &mut Table, after: isize) -> Option<&mut Table> {
    let below = table.iter_mut().flat_map(|(_, item)| -> Vec<&mut Table> {
        match item {
            Item::Table(table) => vec![table],
            Item::ArrayOfTables(tables) => tables.iter_mut().collect(),
            Item::None | Item::Value(_) => Vec::new(),
        }
    });
    let found = below.filter_map(|table| match table.position().filter(|position| *position > after && !table.is_implicit()) {
        Some(_) => Some(table),
        None => next_table(table, after),
    });
    found.min_by_key(|table| table.position())
}

/// Keeps the comments above removed tables: above the next table, or at the end of the text.
pub fn keep(toml: &mut DocumentMut, removed: Vec<Above>) {
    let last = removed.iter().filter_map(|(_, position)| *position).max();
    let mut comments: String = removed.into_iter().map(|(text, _)| text).filter(|text| text.contains('#')).collect();
    if comments.is_empty() {
        return;
    }
    let next = last.and_then(|last| next_table(toml.as_table_mut(), last));
    match next {
        Some(next) => {
            comments += &prefix(next.decor());
            next.decor_mut().set_prefix(comments);
        }
        None => {
            let trailing = toml.trailing().as_str().unwrap_or_default().to_owned();
            toml.set_trailing(comments + &trailing);
        }
    }
}
