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

/// The headers would be larger than their limit.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Puts values in place of placeholders; returns the names of the used secrets. Stops as soon as all headers together have more than `most`
/// bytes: a value can be many times as long as its placeholder.
pub fn reveal(headers: &mut HeaderMap, pairs: &[&Pair], most: usize) -> Result<Vec<String>, TooLarge> {
    let mut used = Vec::new();
    for pair in pairs {
        if exchange(headers, pair.placeholder.as_bytes(), pair.value.bytes(), most)? {
            used.push(pair.name.clone());
        }
    }
    Ok(used)
}

/// Puts placeholders in place of values.
pub fn conceal(headers: &mut HeaderMap, pairs: &[&Pair]) {
    for pair in pairs {
        // Without a limit it does not fail.
        let _ = exchange(headers, pair.value.bytes(), pair.placeholder.as_bytes(), usize::MAX);
    }
}

/// Replaces one text by another in all values; returns true if it occurred.
fn exchange(headers: &mut HeaderMap, from: &[u8], to: &[u8], most: usize) -> Result<bool, TooLarge> {
    let mut found = false;
    let mut total: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    for value in headers.values_mut() {
        // The size of this value after the replacement.
        let most_here = most.saturating_sub(total - value.len());
        let mut changed = replaced(value.as_bytes(), from, to, most_here)?;
        if changed.is_none() {
            changed = in_basic(value.as_bytes(), from, to, most_here)?;
        }
        // Both texts are printable ASCII, so the result is a header's value.
        if let Some(mut new) = changed.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()) {
            total = total - value.len() + new.len();
            new.set_sensitive(true);
            *value = new;
            found = true;
        }
    }
    Ok(found)
}

/// Replaces all occurrences; `None` if there are none.
fn replaced(text: &[u8], from: &[u8], to: &[u8], most: usize) -> Result<Option<Vec<u8>>, TooLarge> {
    let mut new = Vec::new();
    let (mut rest, mut found) = (text, false);
    while let Some(at) = find(rest, from) {
        new.extend_from_slice(&rest[..at]);
        new.extend_from_slice(to);
        rest = &rest[at + from.len()..];
        found = true;
        if new.len() > most {
            return Err(TooLarge);
        }
    }
    new.extend_from_slice(rest);
    if found && new.len() > most { Err(TooLarge) } else { Ok(found.then_some(new)) }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len().max(1)).position(|window| window == wanted)
}

/// Replaces inside the base64 of Basic authentication.
fn in_basic(value: &[u8], from: &[u8], to: &[u8], most: usize) -> Result<Option<Vec<u8>>, TooLarge> {
    let Some((scheme, decoded)) = basic(value) else { return Ok(None) };
    let Some(new) = replaced(&decoded, from, to, most)? else { return Ok(None) };
    let new = format!("{scheme}{}", STANDARD.encode(new)).into_bytes();
    if new.len() > most { Err(TooLarge) } else { Ok(Some(new)) }
}

/// Splits Basic authentication into its scheme and its decoded text.
fn basic(value: &[u8]) -> Option<(&str, Vec<u8>)> {
    let text = std::str::from_utf8(value).ok()?;
    let scheme = text.get(..BASIC.len()).filter(|scheme| scheme.eq_ignore_ascii_case(BASIC))?;
    Some((scheme, STANDARD.decode(text[BASIC.len()..].trim()).ok()?))
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
            let used = reveal(&mut map, &[&pair], 1000).expect("they are small");
            assert_eq!(map["authorization"].to_str().expect("text"), after);
            assert_eq!(used.len(), usize::from(before != after), "{before}");
            conceal(&mut map, &[&pair]);
            assert_eq!(map["authorization"].to_str().expect("text"), before);
            assert_eq!(map["x"], "y");
        }
        // Every header with the value is a secret for the library's own messages.
        let mut map = headers(&[("a", PLACEHOLDER.to_owned())]);
        reveal(&mut map, &[&pair], 1000).expect("they are small");
        assert!(!format!("{map:?}{pair:?}").contains("v4lue"));
    }

    #[test]
    fn headers_never_grow_above_their_limit() {
        let value = Value::parse("v".repeat(1000).into_bytes()).expect("a value");
        let pair = Pair { name: "TOKEN".to_owned(), placeholder: PLACEHOLDER.to_owned(), value };
        let basic = format!("Basic {}", STANDARD.encode(PLACEHOLDER));
        // The value, and the name of one letter.
        for (values, size) in [
            (vec![("a", PLACEHOLDER.to_owned())], 1001),
            (vec![("a", PLACEHOLDER.repeat(50))], 50_001),
            (vec![("a", PLACEHOLDER.to_owned()), ("b", PLACEHOLDER.to_owned()), ("c", "x".repeat(500))], 2503),
            (vec![("a", basic)], 1 + 6 + 1336),
        ] {
            let revealed = |most: usize| reveal(&mut headers(&values), &[&pair], most);
            assert_eq!(revealed(size).expect("it fits"), ["TOKEN"], "{values:?}");
            assert_eq!(revealed(size - 1), Err(TooLarge), "{values:?}");
            assert_eq!(revealed(0), Err(TooLarge), "{values:?}");
        }
        // Headers without a placeholder are the affair of their reader.
        assert_eq!(reveal(&mut headers(&[("a", "x".repeat(99))]), &[&pair], 10), Ok(Vec::new()));
    }
}
