//! A Release file: the indexes of a suite and their digests.

use std::collections::BTreeMap;

use crate::packages::{is_pool_path, sha256};
use silo_base::timestamp::days_from_civil;

/// Limit of a Release file's size. Debian's have 150 KB.
pub const MAX_RELEASE_BYTES: usize = 10 * 1024 * 1024;

/// The contents of a Release file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The publisher, as `Debian`.
    pub origin: String,
    /// The role of the suite, as `stable`.
    pub suite: String,
    /// The name of the suite, as `trixie`.
    pub codename: String,
    /// Creation time, in Unix seconds.
    pub date_secs: i64,
    /// Expiry time, in Unix seconds; a stable suite has none.
    pub valid_until_secs: Option<i64>,
    /// The architectures with indexes.
    pub architectures: Vec<String>,
    /// The components with indexes, as `main`.
    pub components: Vec<String>,
    /// True if apt uses its packages only on request, as for backports.
    pub not_automatic: bool,
    /// True if indexes can be fetched by digest, as `by-hash/SHA256/<digest>` in their directory.
    pub acquire_by_hash: bool,
    /// The indexes by path below the suite's directory.
    pub files: BTreeMap<String, File>,
}

/// One index in a Release file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
}

/// A fault of a Release file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// The file is larger than [`MAX_RELEASE_BYTES`].
    #[error("release file of {bytes} bytes is too large")]
    TooLarge { bytes: usize },
    /// A line is not a field.
    #[error("release file, line {line}: not a field")]
    NotAField { line: usize },
    /// A field is repeated.
    #[error("release file, line {line}: second {field}")]
    Twice { line: usize, field: String },
    /// A field is missing.
    #[error("release file has no {field}")]
    Missing { field: &'static str },
    /// A field has an invalid value.
    #[error("release file: bad {field} `{value}`")]
    Bad { field: &'static str, value: String },
}

/// Parses the signed text of a Release file.
pub fn parse(text: &str) -> Result<Release, Error> {
    if text.len() > MAX_RELEASE_BYTES {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    let fields = fields(text)?;
    let optional = |field: &str| fields.get(&field.to_ascii_lowercase()).copied();
    let required = |field: &'static str| optional(field).filter(|value| !value.is_empty()).ok_or(Error::Missing { field });
    let words = |field| required(field).map(|value| value.split_ascii_whitespace().map(str::to_owned).collect());
    let date = |field, value: &str| date_secs(value).ok_or_else(|| Error::Bad { field, value: escape(value) });
    let flag = |field: &'static str| match optional(field) {
        None | Some("no") => Ok(false),
        Some("yes") => Ok(true),
        Some(value) => Err(Error::Bad { field, value: escape(value) }),
    };
    // An archive may be known by either name; the caller compares it with the requested one.
    let name = |field: &str| optional(field).unwrap_or_default().to_owned();
    let (suite, codename) = (name("Suite"), name("Codename"));
    if suite.is_empty() && codename.is_empty() {
        return Err(Error::Missing { field: "Codename" });
    }
    Ok(Release {
        origin: optional("Origin").unwrap_or_default().to_owned(),
        suite,
        codename,
        date_secs: date("Date", required("Date")?)?,
        valid_until_secs: optional("Valid-Until").map(|value| date("Valid-Until", value)).transpose()?,
        architectures: words("Architectures")?,
        components: words("Components")?,
        not_automatic: flag("NotAutomatic")?,
        acquire_by_hash: flag("Acquire-By-Hash")?,
        files: files(required("SHA256")?)?,
    })
}

/// Splits the single stanza into its fields, by lower-case name.
fn fields(text: &str) -> Result<BTreeMap<String, &str>, Error> {
    let mut fields = BTreeMap::new();
    let text = text.trim_end_matches(['\r', '\n']);
    let mut at = 0;
    let mut line = 0;
    while at < text.len() {
        line += 1;
        let first = line;
        let start = at;
        at = next_line(text, at);
        while text[at..].starts_with([' ', '\t']) {
            line += 1;
            at = next_line(text, at);
        }
        let (name, value) = text[start..at].split_once(':').ok_or(Error::NotAField { line: first })?;
        // A blank line would begin a second stanza, which would be ignored.
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(Error::NotAField { line: first });
        }
        if fields.insert(name.to_ascii_lowercase(), value.trim_matches(|c: char| c.is_ascii_whitespace())).is_some() {
            return Err(Error::Twice { line: first, field: name.to_owned() });
        }
    }
    Ok(fields)
}

/// Returns the start of the line after the one at `at`.
fn next_line(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |length| at + length + 1)
}

/// Parses the digest table: digest, size and path in each line.
fn files(table: &str) -> Result<BTreeMap<String, File>, Error> {
    let mut files = BTreeMap::new();
    for line in table.lines() {
        let bad = || Error::Bad { field: "SHA256", value: escape(line) };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [digest, size, path] = words[..] else { return Err(bad()) };
        let file = File { sha256: sha256(digest).ok_or_else(bad)?, size: size.parse().map_err(|_| bad())? };
        // A path with two digests would be ambiguous.
        if !is_pool_path(path) || files.insert(path.to_owned(), file).is_some_and(|other| other != file) {
            return Err(bad());
        }
    }
    Ok(files)
}

/// Parses a date like `Sat, 21 Nov 2026 09:15:44 UTC`; archives always use UTC.
pub fn date_secs(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "UTC" | "GMT" | "+0000"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (day, year) = (number(day, 1..=31)?, number(year, 1970..=9999)?);
    let clock: Vec<&str> = time.split(':').collect();
    let [hour, minute, second] = clock[..] else { return None };
    // A leap second is valid.
    let (hour, minute, second) = (number(hour, 0..=23)?, number(minute, 0..=59)?, number(second, 0..=60)?);
    if day > days_in(month, year) {
        return None;
    }
    Some(((days_from_civil(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(text: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())??;
    range.contains(&number).then_some(number)
}

fn days_in(month: i64, year: i64) -> i64 {
    let next = if month == 12 { days_from_civil(year + 1, 1, 1) } else { days_from_civil(year, month + 1, 1) };
    next - days_from_civil(year, month, 1)
}

/// Escapes and shortens foreign text for an error message.
fn escape(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::{Release, date_secs, parse};

    const GOOD: &str = "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nValid-Until: Sat, 28 Nov 2026 09:15:44 UTC\n\
        Acquire-By-Hash: yes\nArchitectures: all amd64 arm64\nComponents: main contrib\nMD5Sum:\n 00 1 main/x\nSHA256:\n \
        000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f    7 main/binary-amd64/Packages.xz\n";

    fn good() -> Release {
        parse(GOOD).expect("well formed")
    }

    #[test]
    fn reads_the_fields() {
        let release = good();
        assert_eq!((release.origin.as_str(), release.suite.as_str(), release.codename.as_str()), ("Debian", "stable", "trixie"));
        assert_eq!((release.date_secs, release.valid_until_secs), (1_795_252_544, Some(1_795_857_344)));
        assert_eq!(release.architectures, ["all", "amd64", "arm64"]);
        assert_eq!(release.components, ["main", "contrib"]);
        assert!(release.acquire_by_hash);
        let file = release.files["main/binary-amd64/Packages.xz"];
        assert_eq!((file.size, file.sha256[31]), (7, 0x1f));
        assert_eq!(parse(GOOD.trim_end()), Ok(good()), "a signed text has no last line end");
        assert_eq!(parse(&GOOD.replace('\n', "\r\n")), Ok(good()));
    }

    #[test]
    fn refuses_the_rest() {
        for (from, to, message) in [
            ("Suite: stable\nCodename: trixie\n", "", "release file has no Codename"),
            ("SHA256:", "SHA1:", "release file has no SHA256"),
            ("Origin: Debian\n", "Origin Debian\n", "release file, line 1: not a field"),
            ("Suite: stable\n", "Suite: stable\n\n", "release file, line 3: not a field"),
            ("Origin: Debian\n", "SUITE: x\n", "release file, line 2: second Suite"),
            ("Sat, 21", "Sat, 31", "release file: bad Date `Sat, 31 Nov 2026 09:15:44 UTC`"),
            ("yes", "maybe", "release file: bad Acquire-By-Hash `maybe`"),
            (
                "  7 main/binary-amd64/Packages.xz",
                " -7 m",
                "release file: bad SHA256 `000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f   -7 m`",
            ),
            (
                "  7 main/binary-amd64/Packages.xz",
                " 7 ../b",
                "release file: bad SHA256 `000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f   7 ../b`",
            ),
        ] {
            let error = parse(&GOOD.replacen(from, to, 1)).expect_err(to).to_string();
            assert_eq!(error, message);
        }
        let twice = format!("{GOOD} {} 7 main/binary-amd64/Packages.xz\n", "0".repeat(64));
        assert!(parse(&twice).is_err(), "one path, two digests");
    }

    #[test]
    fn dates() {
        for (text, secs) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", Some(0)),
            ("Tue, 29 Feb 2000 12:00:00 GMT", Some(951_825_600)),
            ("Wed, 31 Dec 2036 23:59:60 +0000", Some(2_114_380_800)),
            ("Sun, 29 Feb 2026 12:00:00 UTC", None),
            ("Sat, 21 Nov 2026 09:15:44 CET", None),
            ("Sat, 21 Nov 2026 9:15 UTC", None),
            ("Sat, 21 Nov +2026 09:15:44 UTC", None),
            ("", None),
        ] {
            assert_eq!(date_secs(text), secs, "{text}");
        }
    }
}
