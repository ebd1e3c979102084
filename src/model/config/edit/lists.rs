//! Lists in a `silo.toml`: additions follow the spelling of the list.

use toml_edit::{Array, Item, Value};

use super::error::Error;

/// Returns the list of a key.
pub fn list<'a>(item: &'a mut Item, key: &str) -> Result<&'a mut Array, Error> {
    item.as_array_mut().ok_or_else(|| Error::Kind { key: key.to_owned(), kind: "a list" })
}

/// Appends a string; returns false if it is there already.
pub fn push(list: &mut Array, text: &str) -> Result<bool, Error> {
    if list.iter().any(|value| value.as_str() == Some(text)) {
        return Ok(false);
    }
    append(list, Value::from(text));
    Ok(true)
}

/// Appends a value to a list: on its own line if the list has one line per value, and after the last comment.
fn append(list: &mut Array, mut value: Value) {
    let text = |raw: Option<&toml_edit::RawString>| raw.and_then(toml_edit::RawString::as_str).unwrap_or_default().to_owned();
    let first = text(list.get(0).and_then(|first| first.decor().prefix()));
    let trailing = text(Some(list.trailing()));
    let Some((_, indent)) = first.rsplit_once('\n') else { return list.push(value) };
    let (comment, _) = trailing.rsplit_once('\n').unwrap_or_default();
    value.decor_mut().set_prefix(format!("{comment}\n{indent}"));
    list.push_formatted(value);
    list.set_trailing_comma(true);
    list.set_trailing("\n");
}

/// Removes values; returns their number.
pub fn remove(list: &mut Array, mut which: impl FnMut(&Value) -> bool) -> usize {
    let before = list.len();
    list.retain(|value| !which(value));
    // The second value of a line has a space before it.
    if let Some(first) = list.get_mut(0).filter(|first| first.decor().prefix().and_then(|prefix| prefix.as_str()) == Some(" ")) {
        first.decor_mut().set_prefix("");
    }
    before - list.len()
}

/// True if two values are equal, regardless of their spelling.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same(a, b)),
        (Value::InlineTable(a), Value::InlineTable(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (a, b) => match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_bool().is_some() && a.as_bool() == b.as_bool(),
        },
    }
}

/// Puts each item of a list on its own line.
pub fn one_a_line(list: &mut Array) {
    for value in list.iter_mut() {
        if value.decor().prefix().is_none_or(|prefix| prefix.as_str().is_none_or(|prefix| !prefix.contains('\n'))) {
            value.decor_mut().set_prefix("\n    ");
        }
    }
    list.set_trailing_comma(true);
    list.set_trailing("\n");
}
