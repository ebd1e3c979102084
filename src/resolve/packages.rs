//! A Packages index: one stanza for each binary package.
//!
//! An index has 70,000 stanzas, and a solve looks at a few hundred of them. So a parsed package borrows its text, and its relation fields
//! are parsed on demand. Values used in a path, a URL or a lock (name, version, filename, size, digest) are checked during parsing.

use crate::relation::{self, Relation};
use crate::version;

/// Limit of an index's size. Debian's `main` has 57 MB; the limit keeps a hostile one from filling memory.
pub const MAX_INDEX_BYTES: usize = 512 * 1024 * 1024;

/// A parsed Packages index.
#[derive(Clone, Debug, Default)]
pub struct Index<'a> {
    /// The packages in file order; a name may occur in several versions.
    pub packages: Vec<Package<'a>>,
}

/// One binary package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package<'a> {
    /// The package name.
    pub name: &'a str,
    /// The full version.
    pub version: &'a str,
    /// An architecture, or `all`.
    pub architecture: &'a str,
    /// Use by packages of other architectures.
    pub multi_arch: MultiArch,
    /// `Essential: yes`: part of every Debian root.
    pub essential: bool,
    /// `Protected: yes` (or the older `Important: yes`): not to be removed casually.
    pub protected: bool,
    /// Importance for a system.
    pub priority: Priority,
    /// The text of `Pre-Depends`.
    pub pre_depends: &'a str,
    /// The text of `Depends`.
    pub depends: &'a str,
    /// The text of `Recommends`.
    pub recommends: &'a str,
    /// The text of `Suggests`.
    pub suggests: &'a str,
    /// The text of `Conflicts`.
    pub conflicts: &'a str,
    /// The text of `Breaks`.
    pub breaks: &'a str,
    /// The text of `Replaces`.
    pub replaces: &'a str,
    /// The text of `Enhances`.
    pub enhances: &'a str,
    /// The text of `Provides`.
    pub provides: &'a str,
    /// The path of the .deb below the mirror's root: relative, without `..`.
    pub filename: &'a str,
    /// The size of the .deb in bytes.
    pub size: u64,
    /// The SHA-256 of the .deb.
    pub sha256: [u8; 32],
    /// The line number of the stanza's first line.
    pub line: usize,
}

/// The `Multi-Arch` field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MultiArch {
    /// Serves its own architecture only.
    #[default]
    No,
    /// May be installed for several architectures together.
    Same,
    /// Serves packages of every architecture.
    Foreign,
    /// Serves every architecture in dependencies with `:any`.
    Allowed,
}

/// The `Priority` field, most important first. A package without one ranks first, as in apt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The field is missing.
    #[default]
    Unset,
    /// `required`
    Required,
    /// `important`
    Important,
    /// `standard`
    Standard,
    /// `optional`
    Optional,
    /// `extra`, or an unknown word
    Extra,
}

/// A fault of a Packages index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// The index is larger than [`MAX_INDEX_BYTES`].
    #[error("packages index of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    /// A line of a stanza is not a field.
    #[error("package {package} in line {line}: not a field: `{text}`")]
    NotAField { package: String, line: usize, text: String },
    /// A required field is missing.
    #[error("package {package} in line {line}: no {field}")]
    Missing { package: String, line: usize, field: &'static str },
    /// A field has an invalid value.
    #[error("package {package} in line {line}: bad {field} `{value}`")]
    Bad { package: String, line: usize, field: &'static str, value: String },
}

impl<'a> Package<'a> {
    /// Parses a relation field of this package; the error names package and line.
    pub fn relations(&self, field: &'static str, text: &'a str) -> Result<Vec<Vec<Relation<'a>>>, Error> {
        relation::parse(text).map_err(|error| self.bad(field, &error.text))
    }

    fn bad(&self, field: &'static str, value: &str) -> Error {
        Error::Bad { package: name_or_unknown(self.name), line: self.line, field, value: escape(value) }
    }
}

/// Parses the text of a Packages index.
pub fn parse(text: &[u8]) -> Result<Index<'_>, Error> {
    if text.len() > MAX_INDEX_BYTES {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    let mut rest = match std::str::from_utf8(text) {
        Ok(rest) => rest,
        Err(error) => return Err(not_utf8(text, error.valid_up_to())),
    };
    // A stanza of Debian's main has about 800 bytes.
    let mut packages = Vec::with_capacity(rest.len() / 800);
    let mut line = 1;
    while !rest.is_empty() {
        let start = line;
        let (package, after) = parse_stanza(rest, &mut line, start)?;
        packages.extend(package);
        rest = after;
    }
    Ok(Index { packages })
}

/// Fields of a stanza that are not checked yet.
#[derive(Default)]
struct Raw<'a> {
    multi_arch: &'a str,
    essential: &'a str,
    protected: &'a str,
    important: &'a str,
    priority: &'a str,
    size: &'a str,
    sha256: &'a str,
}

/// Parses up to the next blank line; returns no package if there were only blank lines.
fn parse_stanza<'a>(text: &'a str, line: &mut usize, start: usize) -> Result<(Option<Package<'a>>, &'a str), Error> {
    let mut package = empty(start);
    let mut raw = Raw::default();
    let mut rest = text;
    let mut seen = false;
    while !rest.is_empty() {
        let (first, mut after) = cut_line(rest);
        if first.is_empty() {
            *line += 1;
            rest = after;
            break;
        }
        let mut lines = 1;
        let mut end = first.len();
        while after.starts_with([' ', '\t']) {
            let (folded, next) = cut_line(after);
            end = rest.len() - after.len() + folded.len();
            after = next;
            lines += 1;
        }
        let Some((key, _)) = first.split_once(':').filter(|(key, _)| !key.is_empty() && !key.starts_with([' ', '\t'])) else {
            return Err(Error::NotAField { package: name_or_unknown(package.name), line: *line, text: escape(first) });
        };
        let value = rest[key.len() + 1..end].trim_matches(|c: char| c.is_ascii_whitespace());
        if let Some(slot) = slot(&mut package, &mut raw, key) {
            // dpkg rejects a repeated field; choosing one silently would let two readers disagree.
            if !slot.is_empty() {
                return Err(Error::Bad { package: name_or_unknown(package.name), line: *line, field: "second field", value: escape(key) });
            }
            *slot = value;
        }
        seen = true;
        *line += lines;
        rest = after;
    }
    if !seen {
        return Ok((None, rest));
    }
    Ok((Some(check(package, &raw)?), rest))
}

/// Returns the slot for a field's value; `None` for an unused field.
fn slot<'p, 'a>(package: &'p mut Package<'a>, raw: &'p mut Raw<'a>, key: &str) -> Option<&'p mut &'a str> {
    // Field names are case-insensitive. The archive's usual spelling is tried first, because it is fast.
    Some(match key {
        "Package" => &mut package.name,
        "Version" => &mut package.version,
        "Architecture" => &mut package.architecture,
        "Pre-Depends" => &mut package.pre_depends,
        "Depends" => &mut package.depends,
        "Recommends" => &mut package.recommends,
        "Suggests" => &mut package.suggests,
        "Conflicts" => &mut package.conflicts,
        "Breaks" => &mut package.breaks,
        "Replaces" => &mut package.replaces,
        "Enhances" => &mut package.enhances,
        "Provides" => &mut package.provides,
        "Filename" => &mut package.filename,
        "Multi-Arch" => &mut raw.multi_arch,
        "Essential" => &mut raw.essential,
        "Protected" => &mut raw.protected,
        "Important" => &mut raw.important,
        "Priority" => &mut raw.priority,
        "Size" => &mut raw.size,
        "SHA256" => &mut raw.sha256,
        _ => {
            let canonical = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(key) && **known != key)?;
            return slot(package, raw, canonical);
        }
    })
}

/// The field names in `slot`, for case-insensitive comparison.
const KNOWN: [&str; 20] = [
    "Package",
    "Version",
    "Architecture",
    "Pre-Depends",
    "Depends",
    "Recommends",
    "Suggests",
    "Conflicts",
    "Breaks",
    "Replaces",
    "Enhances",
    "Provides",
    "Filename",
    "Multi-Arch",
    "Essential",
    "Protected",
    "Important",
    "Priority",
    "Size",
    "SHA256",
];

/// Checks the texts of a stanza and converts them to a package.
fn check<'a>(mut package: Package<'a>, raw: &Raw<'a>) -> Result<Package<'a>, Error> {
    let required = [
        ("Package", package.name),
        ("Version", package.version),
        ("Architecture", package.architecture),
        ("Filename", package.filename),
        ("Size", raw.size),
        ("SHA256", raw.sha256),
    ];
    if let Some((field, _)) = required.iter().find(|(_, value)| value.is_empty()) {
        return Err(Error::Missing { package: name_or_unknown(package.name), line: package.line, field });
    }
    let flag = |field, value: &str| match value {
        "" | "no" => Ok(false),
        "yes" => Ok(true),
        _ => Err(package.bad(field, value)),
    };
    let essential = flag("Essential", raw.essential)?;
    let protected = flag("Protected", raw.protected)? | flag("Important", raw.important)?;
    if !relation::is_name(package.name) {
        return Err(package.bad("Package", package.name));
    }
    if !version::is_valid(package.version) {
        return Err(package.bad("Version", package.version));
    }
    if !relation::is_name(package.architecture) {
        return Err(package.bad("Architecture", package.architecture));
    }
    if !is_pool_path(package.filename) {
        return Err(package.bad("Filename", package.filename));
    }
    (package.essential, package.protected) = (essential, protected);
    package.multi_arch = match raw.multi_arch {
        "" | "no" => MultiArch::No,
        "same" => MultiArch::Same,
        "foreign" => MultiArch::Foreign,
        "allowed" => MultiArch::Allowed,
        other => return Err(package.bad("Multi-Arch", other)),
    };
    package.priority = match raw.priority {
        "" => Priority::Unset,
        "required" => Priority::Required,
        "important" => Priority::Important,
        "standard" => Priority::Standard,
        "optional" => Priority::Optional,
        _ => Priority::Extra,
    };
    package.size = raw.size.parse().map_err(|_| package.bad("Size", raw.size))?;
    package.sha256 = sha256(raw.sha256).ok_or_else(|| package.bad("SHA256", raw.sha256))?;
    Ok(package)
}

/// Returns true if the path is relative, printable and stays below the directory it is joined to.
pub(crate) fn is_pool_path(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Parses the 64 hexadecimal digits of a SHA-256.
pub(crate) fn sha256(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(digest)
}

fn empty(line: usize) -> Package<'static> {
    Package {
        name: "",
        version: "",
        architecture: "",
        multi_arch: MultiArch::No,
        essential: false,
        protected: false,
        priority: Priority::Unset,
        pre_depends: "",
        depends: "",
        recommends: "",
        suggests: "",
        conflicts: "",
        breaks: "",
        replaces: "",
        enhances: "",
        provides: "",
        filename: "",
        size: 0,
        sha256: [0; 32],
        line,
    }
}

/// Splits off the first line, without its line end (LF or CRLF).
fn cut_line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.strip_suffix('\r').unwrap_or(line), rest)
}

fn name_or_unknown(name: &str) -> String {
    if name.is_empty() { "(unnamed)".to_owned() } else { escape(name) }
}

/// Escapes and shortens foreign text for an error message.
fn escape(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn not_utf8(text: &[u8], at: usize) -> Error {
    let line = text[..at].iter().filter(|b| **b == b'\n').count() + 1;
    Error::NotAField { package: name_or_unknown(""), line, text: "(not UTF-8)".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{Error, MultiArch, Priority, parse};

    const GOOD: &str = "Package: a\nVersion: 1-1\nArchitecture: amd64\nMulti-Arch: same\nEssential: yes\nPriority: required\ndepends: b (>= 1),\n c\nDescription: x\n .\n more\nFilename: pool/a.deb\nSize: 12\nSHA256: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1F\n";

    #[test]
    fn reads_stanzas() {
        let text = format!("\n{GOOD}\n\n{}", GOOD.replace("Package: a", "Package: b").replace('\n', "\r\n"));
        let index = parse(text.as_bytes()).expect("well formed");
        assert_eq!(index.packages.iter().map(|p| (p.name, p.line)).collect::<Vec<_>>(), [("a", 2), ("b", 18)]);
        for package in &index.packages {
            assert_eq!((package.version, package.size, package.sha256[31]), ("1-1", 12, 0x1f));
            assert!(package.essential && !package.protected);
            assert_eq!((package.multi_arch, package.priority), (MultiArch::Same, Priority::Required));
            assert_eq!(package.relations("Depends", package.depends).expect("well formed").len(), 2);
        }
        assert!(parse(b"").expect("empty").packages.is_empty());
    }

    #[test]
    fn names_package_and_line() {
        // Change of the valid stanza, expected message.
        for (from, to, message) in [
            ("Version: 1-1\n", "", "package a in line 1: no Version"),
            ("1-1", "1_1", "package a in line 1: bad Version `1_1`"),
            ("Package: a", "Package: ../a", "package ../a in line 1: bad Package `../a`"),
            ("pool/a.deb", "/etc/passwd", "package a in line 1: bad Filename `/etc/passwd`"),
            ("pool/a.deb", "pool/../../a", "package a in line 1: bad Filename `pool/../../a`"),
            ("Size: 12", "Size: -1", "package a in line 1: bad Size `-1`"),
            ("1e1F", "1e1g", "package a in line 1: bad SHA256 `000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1g`"),
            ("Multi-Arch: same", "Multi-Arch: maybe", "package a in line 1: bad Multi-Arch `maybe`"),
            ("Multi-Arch: same", "nonsense", "package a in line 4: not a field: `nonsense`"),
            ("Multi-Arch: same", "VERSION: 2", "package a in line 4: bad second field `VERSION`"),
            ("Package: a\n", " Package: a\n", "package (unnamed) in line 1: not a field: ` Package: a`"),
        ] {
            let error = parse(GOOD.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert_eq!(error.to_string(), message);
        }
        assert!(matches!(parse(b"Package: a\nVersion: \xff\n"), Err(Error::NotAField { line: 2, .. })));
        let text = GOOD.replace("b (>= 1)", "b (>= )");
        let index = parse(text.as_bytes()).expect("relations are read later");
        let error = index.packages[0].relations("Depends", index.packages[0].depends).expect_err("bad bound");
        assert_eq!(error.to_string(), "package a in line 1: bad Depends `b (>= )`");
    }
}
