//! Parses a registry's `WWW-Authenticate` header (RFC 9110, section 11); the input is hostile.

use std::collections::BTreeMap;

/// The longest header. Registries send about 200 bytes.
pub const MAX_BYTES: usize = 8 << 10;
/// The most parameters of a challenge. Registries send three.
const MAX_PARAMETERS: usize = 16;

/// An authentication challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case: `basic`, `bearer`.
    pub scheme: String,
    /// The parameters, with names in lower case.
    pub parameters: BTreeMap<String, String>,
}

/// Parses all challenges of a header; `None` if it is too long or malformed.
///
/// A repeated parameter makes the header malformed: two parsers could choose different values.
pub fn parse(header: &str) -> Option<Vec<Challenge>> {
    let mut rest = Some(header).filter(|header| header.len() <= MAX_BYTES)?;
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(challenges);
        }
        let word = token(&mut rest)?;
        let after = rest.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(after), Some(challenge)) => {
                rest = after.trim_start_matches([' ', '\t']);
                let value = value(&mut rest)?;
                let is_new = challenge.parameters.insert(word.to_ascii_lowercase(), value).is_none();
                if !is_new || challenge.parameters.len() > MAX_PARAMETERS {
                    return None;
                }
            }
            (Some(_), None) => return None,
            (None, _) => challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: BTreeMap::new() }),
        }
    }
}

fn token<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    let end = rest.bytes().position(|byte| !is_token(byte)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    *rest = after;
    (!word.is_empty()).then_some(word)
}

/// Parses a value: quoted, with `\` as the escape, or up to the next comma or space.
fn value(rest: &mut &str) -> Option<String> {
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ', '\t', '"']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        *rest = after;
        return (!word.contains(char::is_control)).then(|| word.to_owned());
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => {
                *rest = &quoted[at + 1..];
                return Some(value);
            }
            letter => {
                let letter = if letter == '\\' { letters.next()?.1 } else { letter };
                value.push(Some(letter).filter(|letter| !letter.is_control())?);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Challenge { scheme: scheme.to_owned(), parameters }
    }

    #[test]
    fn challenges_are_parsed_as_the_standard_has_them() {
        let bearer = "Bearer realm=\"https://auth.example.com/token\",Service=\"registry, the\", scope = \"repository:a/b:pull,push\"";
        let parameters = [("realm", "https://auth.example.com/token"), ("service", "registry, the"), ("scope", "repository:a/b:pull,push")];
        assert_eq!(parse(bearer), Some(vec![one("bearer", &parameters)]));
        assert_eq!(parse("Basic realm=x"), Some(vec![one("basic", &[("realm", "x")])]));
        assert_eq!(parse("Negotiate"), Some(vec![one("negotiate", &[])]));
        let both = parse("Bearer realm=\"a\", error=\"x\", Basic realm=\"b \\\"c\\\"\"");
        assert_eq!(both, Some(vec![one("bearer", &[("realm", "a"), ("error", "x")]), one("basic", &[("realm", "b \"c\"")])]));
        assert_eq!(parse(""), Some(vec![]));
    }

    #[test]
    fn malformed_challenges_are_refused() {
        let long = format!("Bearer realm=\"{}\"", "a".repeat(MAX_BYTES));
        let many: String = (0..MAX_PARAMETERS + 1).map(|at| format!("p{at}=x, ")).collect();
        let many = format!("Bearer {many}");
        for header in [
            "=",
            "realm=x",
            "Bearer realm=\"x",
            "Bearer realm=\"x\\",
            "Bearer realm=a, realm=b",
            "Bearer \"x\"",
            "{}",
            "Bearer realm=\u{1}",
            "Bearer realm=\"\\\u{1}\"",
            &long,
            &many,
        ] {
            assert_eq!(parse(header), None, "{header}");
        }
    }

    #[test]
    fn no_header_is_read_without_end_or_panics() {
        // Every text of up to six significant characters, and cuts within multi-byte characters.
        let letters = ['a', '=', '"', '\\', ',', ' ', 'é'];
        let mut texts = vec![String::new()];
        for _ in 0..6 {
            texts = texts.iter().flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}"))).collect();
            for text in &texts {
                let read = parse(text).unwrap_or_default();
                assert!(read.iter().all(|challenge| !challenge.scheme.is_empty()), "{text}");
            }
        }
    }
}
