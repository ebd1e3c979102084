//! Settings in JSON with comments, as VS Code and Zed have them.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::Value;

use super::languages::{Direction, Error};

/// One value of the settings.
pub struct Entry {
    path: Vec<String>,
    value: Value,
    /// True if the value is an element of a list at the path.
    is_element: bool,
    /// True if the value is removed only if nothing else is left.
    is_frame: bool,
    /// Values that are removed only together with this one, since other settings have the same.
    with: Vec<Entry>,
}

impl Entry {
    /// A value at a path of keys.
    pub fn value(path: &[&str], value: Value) -> Entry {
        Entry { path: path.iter().map(|key| (*key).to_owned()).collect(), value, is_element: false, is_frame: false, with: Vec::new() }
    }

    /// An element of the list at a path of keys.
    pub fn in_list(path: &[&str], value: Value) -> Entry {
        Entry { is_element: true, ..Entry::value(path, value) }
    }

    /// A value at the top that any file of this kind has.
    pub fn frame(key: &str, value: Value) -> Entry {
        Entry { is_frame: true, ..Entry::value(&[key], value) }
    }

    /// Adds values that belong to this one.
    pub fn with(self, with: Vec<Entry>) -> Entry {
        Entry { with, ..self }
    }
}

pub fn change(file: &'static str, entries: &[Entry], direction: Direction, before: &str) -> Result<String, Error> {
    if entries.is_empty() || direction == Direction::Remove && before.is_empty() {
        return Ok(before.to_owned());
    }
    let invalid = |reason: String| Error::Invalid { file, reason };
    let root = CstRootNode::parse(before, &ParseOptions::default()).map_err(|error| invalid(error.to_string()))?;
    let object = match root.value() {
        None => root.object_value_or_set(),
        Some(_) => root.object_value().ok_or_else(|| invalid("it has no object".to_owned()))?,
    };
    let mut is_changed = false;
    // A frame goes last.
    let in_order = entries.iter().filter(|entry| !entry.is_frame).chain(entries.iter().filter(|entry| entry.is_frame));
    for entry in if direction == Direction::Add { entries.iter().collect::<Vec<_>>() } else { in_order.collect() } {
        match direction {
            Direction::Add => {
                for entry in entry.with.iter().chain([entry]) {
                    add(file, &object, entry)?;
                }
            }
            Direction::Remove if entry.is_frame && !(is_changed && object.properties().len() == 1) => {}
            Direction::Remove => {
                if remove(&object, entry) {
                    is_changed = true;
                    for entry in &entry.with {
                        remove(&object, entry);
                    }
                }
            }
        }
    }
    let text = root.to_string();
    let is_gone = direction == Direction::Remove && text != before && text.split_whitespace().collect::<String>() == "{}";
    Ok(match direction {
        _ if is_gone => String::new(),
        Direction::Add if !text.ends_with('\n') => text + "\n",
        _ => text,
    })
}

fn add(file: &'static str, object: &CstObject, entry: &Entry) -> Result<(), Error> {
    let differs = |depth: usize| Error::Differs { file, key: entry.path[..depth].join(".") };
    let Some((last, above)) = entry.path.split_last() else { return Ok(()) };
    let mut object = object.clone();
    for (depth, key) in above.iter().enumerate() {
        object = object.object_value_or_create(key).ok_or_else(|| differs(depth + 1))?;
    }
    if entry.is_element {
        let list = object.array_value_or_create(last).ok_or_else(|| differs(entry.path.len()))?;
        if !list.elements().iter().any(|element| element.to_serde_value().as_ref() == Some(&entry.value)) {
            list.append(input(&entry.value));
        }
        return Ok(());
    }
    match object.get(last).and_then(|property| property.value()).map(|value| value.to_serde_value()) {
        None => drop(object.append(last, input(&entry.value))),
        Some(value) if value.as_ref() == Some(&entry.value) => {}
        Some(_) => return Err(differs(entry.path.len())),
    }
    Ok(())
}

/// Removes a value, and objects that are empty without it. Returns true if it was there.
fn remove(object: &CstObject, entry: &Entry) -> bool {
    let Some((last, above)) = entry.path.split_last() else { return false };
    let mut objects = vec![object.clone()];
    for key in above {
        let Some(next) = objects.last().and_then(|object| object.object_value(key)) else { return false };
        objects.push(next);
    }
    let Some(property) = objects.last().and_then(|object| object.get(last)) else { return false };
    if entry.is_element {
        let Some(list) = property.array_value() else { return false };
        let found = list.elements().into_iter().find(|element| element.to_serde_value().as_ref() == Some(&entry.value));
        let Some(found) = found else { return false };
        found.remove();
        if list.elements().is_empty() {
            property.remove();
        }
        return true;
    }
    if property.value().and_then(|value| value.to_serde_value()).as_ref() != Some(&entry.value) {
        return false;
    }
    property.remove();
    for (key, pair) in above.iter().zip(objects.windows(2)).rev() {
        let [outer, inner] = pair else { continue };
        if inner.properties().is_empty()
            && let Some(property) = outer.get(key)
        {
            property.remove();
        }
    }
    true
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(members) => CstInputValue::Object(members.iter().map(|(key, value)| (key.clone(), input(value))).collect()),
    }
}
