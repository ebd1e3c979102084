//! Requested versions as people and projects write them, and the newest available version that fits: `3.13`, `^22`, `>=3.11,<3.14`, `lts`.

use std::str::FromStr;

use nodejs_semver::{Range, Version};
use pep440_rs::VersionSpecifiers;

use crate::recipe::versions::{is_of, is_version, order};

/// Longest accepted text; the longest range in use has a few alternatives.
const MAX_BYTES: usize = 200;

/// Names of Node.js' releases with long-term support, with their major version.
const NODE_NAMES: [(&str, u64); 11] = [
    ("argon", 4),
    ("boron", 6),
    ("carbon", 8),
    ("dubnium", 10),
    ("erbium", 12),
    ("fermium", 14),
    ("gallium", 16),
    ("hydrogen", 18),
    ("iron", 20),
    ("jod", 22),
    ("krypton", 24),
];

/// Label of a version with long-term support in a recipe.
const LONG_TERM: &str = "long-term support";

/// A requested version.
#[derive(Clone, Debug)]
pub enum VersionRequest {
    /// A version or a prefix of one.
    Prefix(String),
    /// The newest version.
    Latest,
    /// The newest version with long-term support.
    LongTerm,
    /// A range by npm's rules.
    Range(Range),
    /// Specifiers of PEP 440.
    Specifiers(VersionSpecifiers),
}

/// A version that a recipe has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableVersion {
    /// The version.
    pub version: String,
    /// Label of the version, such as `long-term support`, or empty.
    pub label: String,
}

/// Reason why a text requests no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a version or a range of versions; write 1.2, ^1.2, \">=1.2,<2\", lts or latest")]
pub struct Invalid(pub String);

/// Parses a requested version of a tool.
pub fn parse(tool: &str, text: &str) -> Result<VersionRequest, Invalid> {
    let invalid = || Invalid(text.chars().take(MAX_BYTES).collect());
    let text = text.trim();
    if text.len() > MAX_BYTES {
        return Err(invalid());
    }
    let word = text.to_ascii_lowercase();
    match word.as_str() {
        "latest" | "current" | "stable" | "*" | "x" => return Ok(VersionRequest::Latest),
        "node" if tool == "node" => return Ok(VersionRequest::Latest),
        "lts" | "lts/*" => return Ok(VersionRequest::LongTerm),
        _ => {}
    }
    if let Some(name) = word.strip_prefix("lts/").or_else(|| word.strip_prefix("lts-")) {
        let known = NODE_NAMES.iter().find(|(known, _)| *known == name).filter(|_| tool == "node");
        return known.map(|(_, major)| VersionRequest::Prefix(major.to_string())).ok_or_else(invalid);
    }
    let plain = text.strip_prefix(['v', 'V']).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(text);
    if let Some(prefix) = wildcard(plain) {
        return Ok(VersionRequest::Prefix(prefix.to_owned()));
    }
    if is_version(plain) && !plain.contains(['~', ' ']) {
        return Ok(VersionRequest::Prefix(plain.to_owned()));
    }
    let range = || Range::from_str(text).ok().map(VersionRequest::Range);
    let specifiers = || VersionSpecifiers::from_str(text).ok().map(VersionRequest::Specifiers);
    // `==` is PEP 440's alone, and a comma joins specifiers.
    let found = if tool == "python" || text.contains([',']) { specifiers().or_else(range) } else { range().or_else(specifiers) };
    found.filter(|_| text.contains(|c: char| c.is_ascii_digit())).ok_or_else(invalid)
}

/// Returns the prefix of `22.x`, `22.*` and `22.x.x`.
fn wildcard(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(shorter) = [".x", ".X", ".*"].iter().find_map(|end| rest.strip_suffix(end)) {
        rest = shorter;
    }
    (rest.len() < text.len() && rest.chars().all(|c| c.is_ascii_digit() || c == '.')).then_some(rest)
}

impl VersionRequest {
    /// True if a version fits.
    pub fn fits(&self, available: &AvailableVersion) -> bool {
        match self {
            VersionRequest::LongTerm => available.label == LONG_TERM,
            _ => self.fits_version(&available.version),
        }
    }

    fn fits_version(&self, version: &str) -> bool {
        match self {
            VersionRequest::Prefix(prefix) => is_of(version, prefix),
            VersionRequest::Latest | VersionRequest::LongTerm => true,
            VersionRequest::Range(range) => three(version).is_some_and(|version| range.satisfies(&version)),
            VersionRequest::Specifiers(specifiers) => {
                pep440_rs::Version::from_str(numbers(version)).is_ok_and(|version| specifiers.contains(&version))
            }
        }
    }

    /// Returns the newest available version that fits.
    pub fn newest<'a>(&self, available: &'a [AvailableVersion]) -> Option<&'a AvailableVersion> {
        newest(available.iter().filter(|one| self.fits(one)))
    }

    /// Returns the version to write into silo.toml for a version that fits: the shortest prefix whose later versions fit, too.
    pub fn pin(&self, tool: &str, version: &str) -> String {
        match self {
            VersionRequest::Prefix(prefix) => prefix.clone(),
            _ => pin(&[self], tool, version),
        }
    }

    /// Returns the request for the release line of a version that has more parts: `22` for `22.11.0`, `3.11` for `3.11.4`.
    pub fn of_line(&self, tool: &str) -> Option<VersionRequest> {
        let VersionRequest::Prefix(prefix) = self else { return None };
        let parts: Vec<&str> = prefix.split('.').collect();
        (parts.len() > line(tool)).then(|| VersionRequest::Prefix(parts[..line(tool)].join(".")))
    }
}

/// Returns the shortest prefix of a version whose later versions fit all requests, too.
pub fn pin(requests: &[&VersionRequest], tool: &str, version: &str) -> String {
    let parts: Vec<&str> = numbers(version).split('.').collect();
    let later = |count: usize| parts[..count].iter().copied().chain(std::iter::repeat_n("9999", 3_usize.saturating_sub(count)));
    let fits = |count: &usize| {
        let version = later(*count).collect::<Vec<_>>().join(".");
        requests.iter().all(|request| request.fits_version(&version))
    };
    let shortest = (line(tool).min(parts.len())..=parts.len()).find(fits);
    shortest.map_or_else(|| version.to_owned(), |count| parts[..count].join("."))
}

/// Returns the newest of some versions.
pub fn newest<'a>(versions: impl Iterator<Item = &'a AvailableVersion>) -> Option<&'a AvailableVersion> {
    versions.max_by_key(|one| order(&one.version))
}

/// Number of parts that name a release line of a tool, within which versions are compatible.
fn line(tool: &str) -> usize {
    if ["python", "go", "rust"].contains(&tool) { 2 } else { 1 }
}

/// Returns the numbers at the start of a version.
fn numbers(version: &str) -> &str {
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    version[..end].trim_end_matches('.')
}

/// Parses a version for npm's ranges, which have three numbers.
fn three(version: &str) -> Option<Version> {
    let mut parts = numbers(version).split('.').map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next().unwrap_or(Some(0));
    Version::from_str(&format!("{}.{}.{}", next()?, next()?, next()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn available(versions: &[(&str, &str)]) -> Vec<AvailableVersion> {
        versions.iter().map(|(version, label)| AvailableVersion { version: (*version).to_owned(), label: (*label).to_owned() }).collect()
    }

    #[test]
    fn a_request_selects_the_newest_version_that_fits() {
        let node = available(&[("20.19.2", ""), ("18.20.8", ""), ("22.23.3", LONG_TERM), ("24.21.0", LONG_TERM), ("26.1.0", "")]);
        let python = available(&[("3.9.2", ""), ("3.11.2", ""), ("3.13.5", ""), ("3.14.2", "")]);
        for (tool, text, expect) in [
            ("node", "22", "22.23.3 22"),
            ("node", "v22", "22.23.3 22"),
            ("node", "22.x", "22.23.3 22"),
            ("node", "22.x.x", "22.23.3 22"),
            ("node", "^22", "22.23.3 22"),
            ("node", "^22.5.1", "22.23.3 22"),
            ("node", "~22.23.1", "22.23.3 22.23"),
            ("node", "=22.23.3", "22.23.3 22.23.3"),
            ("node", ">=18 <21", "20.19.2 20"),
            ("node", ">= 18.0.0", "26.1.0 26"),
            ("node", "18 || 20", "20.19.2 20"),
            ("node", "^18.18.0 || ^20.9.0 || >=21.1.0", "26.1.0 26"),
            ("node", "20 - 22", "22.23.3 22"),
            ("node", "lts", "24.21.0 24"),
            ("node", "lts/*", "24.21.0 24"),
            ("node", "lts/jod", "22.23.3 22"),
            ("node", "lts/Iron", "20.19.2 20"),
            ("node", "latest", "26.1.0 26"),
            ("node", "*", "26.1.0 26"),
            ("node", "22.11.0", "none"),
            ("node", "19", "none"),
            ("node", "lts/nobody", "invalid"),
            ("python", "3.13", "3.13.5 3.13"),
            ("python", ">=3.11,<3.14", "3.13.5 3.13"),
            ("python", ">=3.11, <4", "3.14.2 3.14"),
            ("python", "~=3.11.0", "3.11.2 3.11"),
            ("python", "~=3.11", "3.14.2 3.14"),
            ("python", "==3.13.*", "3.13.5 3.13"),
            ("python", "==3.13.5", "3.13.5 3.13.5"),
            ("python", "!=3.14.2", "3.13.5 3.13"),
            ("python", "^3.11", "3.14.2 3.14"),
            ("python", ">3.9,<=3.11.2", "3.11.2 3.11.2"),
            ("python", "3.12", "none"),
            ("python", "3.1", "none"),
            ("python", "lts", "none"),
            ("python", "", "invalid"),
            ("python", "three", "none"),
            ("python", "a b", "invalid"),
            ("python", ">=", "invalid"),
            ("python", "http://x", "invalid"),
        ] {
            let versions = if tool == "node" { &node } else { &python };
            let told = match parse(tool, text) {
                Err(_) => "invalid".to_owned(),
                Ok(request) => request
                    .newest(versions)
                    .map_or_else(|| "none".to_owned(), |found| format!("{} {}", found.version, request.pin(tool, &found.version))),
            };
            assert_eq!(told, expect, "{tool} {text}");
        }
    }

    #[test]
    fn a_patch_version_names_its_release_line() {
        for (tool, text, expect) in
            [("node", "22.11.0", Some("22")), ("python", "3.11.4", Some("3.11")), ("python", "3.11", None), ("go", "1.24.1", Some("1.24"))]
        {
            let line = parse(tool, text).expect("a version").of_line(tool);
            let line = line.map(|line| match line {
                VersionRequest::Prefix(prefix) => prefix,
                other => panic!("{other:?}"),
            });
            assert_eq!(line.as_deref(), expect, "{tool} {text}");
        }
    }

    #[test]
    fn hostile_requests_are_refused_or_fit_nothing() {
        let long = "9".repeat(10_000);
        for text in [long.as_str(), "99999999999999999999999999", ">=99999999999999999999999999", "1..2", "..", "\u{0}", "é", "^", "||"] {
            if let Ok(request) = parse("node", text) {
                assert!(request.newest(&available(&[("20.19.2", "")])).is_none_or(|_| text == "||"), "{text}");
            }
        }
    }
}
