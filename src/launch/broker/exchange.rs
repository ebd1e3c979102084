//! Exchanges the placeholders of secrets for their values in headers of requests, and back in headers of answers. Pure.
//!
//! A placeholder has 128 random bits, so it does not occur by accident. Basic authentication hides it in base64, which is decoded for it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{HeaderMap, HeaderValue};

use super::value::Value;

/// The scheme of Basic authentication with its space.
const BASIC: &str = "basic ";

/// A placeholder and its value.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The name of the variable inside.
    pub name: String,
    /// The placeholder.
    pub placeholder: String,
    /// The value.
    pub value: Value,
}

/// Puts values in place of placeholders; returns the names of the used secrets.
pub fn reveal(headers: &mut HeaderMap, pairs: &[&Pair]) -> Vec<String> {
    let mut used = Vec::new();
    for pair in pairs {
        if exchange(headers, pair.placeholder.as_bytes(), pair.value.bytes()) {
            used.push(pair.name.clone());
        }
    }
    used
}

/// Puts placeholders in place of values.
pub fn conceal(headers: &mut HeaderMap, pairs: &[&Pair]) {
    for pair in pairs {
        let _ = exchange(headers, pair.value.bytes(), pair.placeholder.as_bytes());
    }
}

/// Replaces one text by another in all values; returns true if it occurred.
fn exchange(headers: &mut HeaderMap, from: &[u8], to: &[u8]) -> bool {
    let mut found = false;
    for value in headers.values_mut() {
        let changed = replaced(value.as_bytes(), from, to).or_else(|| in_basic(value.as_bytes(), from, to));
        // Both texts are printable ASCII, so the result is a header's value.
        if let Some(mut new) = changed.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()) {
            new.set_sensitive(true);
            *value = new;
            found = true;
        }
    }
    found
}

/// Replaces all occurrences; `None` if there are none.
fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(text.len() + to.len());
    let (mut rest, mut found) = (text, false);
    while let Some(at) = find(rest, from) {
        new.extend_from_slice(&rest[..at]);
        new.extend_from_slice(to);
        rest = &rest[at + from.len()..];
        found = true;
    }
    new.extend_from_slice(rest);
    found.then_some(new)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len().max(1)).position(|window| window == wanted)
}

/// Replaces inside the base64 of Basic authentication.
fn in_basic(value: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let scheme = text.get(..BASIC.len()).filter(|scheme| scheme.eq_ignore_ascii_case(BASIC))?;
    let decoded = STANDARD.decode(text[BASIC.len()..].trim()).ok()?;
    let new = replaced(&decoded, from, to)?;
    Some(format!("{scheme}{}", STANDARD.encode(new)).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACEHOLDER: &str = "silo-secret-0123";

    fn pair() -> Pair {
        let value = Value::parse(b"v4lue".to_vec()).expect("a value");
        Pair { name: "TOKEN".to_owned(), placeholder: PLACEHOLDER.to_owned(), value }
    }

    fn headers(values: &[(&'static str, String)]) -> HeaderMap {
        values.iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
    }

    #[test]
    fn placeholders_become_values_and_values_become_placeholders() {
        let pair = pair();
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (before, after) in [
            (format!("Bearer {PLACEHOLDER}"), "Bearer v4lue".to_owned()),
            (format!("{PLACEHOLDER}{PLACEHOLDER};x"), "v4luev4lue;x".to_owned()),
            (basic(&format!("me:{PLACEHOLDER}")), basic("me:v4lue")),
            (basic(&format!("{PLACEHOLDER}:")), basic("v4lue:")),
            (basic("me:other"), basic("me:other")),
            ("Basic !!!".to_owned(), "Basic !!!".to_owned()),
            ("silo-secret-012".to_owned(), "silo-secret-012".to_owned()),
        ] {
            let mut map = headers(&[("authorization", before.clone()), ("x", "y".to_owned())]);
            let used = reveal(&mut map, &[&pair]);
            assert_eq!(map["authorization"].to_str().expect("text"), after);
            assert_eq!(used.len(), usize::from(before != after), "{before}");
            conceal(&mut map, &[&pair]);
            assert_eq!(map["authorization"].to_str().expect("text"), before);
            assert_eq!(map["x"], "y");
        }
        // Every header with the value is a secret for the library's own messages.
        let mut map = headers(&[("a", PLACEHOLDER.to_owned())]);
        let _ = reveal(&mut map, &[&pair]);
        assert!(!format!("{map:?}{pair:?}").contains("v4lue"));
    }
}
