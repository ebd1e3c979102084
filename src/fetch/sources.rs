//! Reads apt's configuration for the archives of this machine.
//!
//! Silo contains no host name of its own. A Debian machine names its mirror in its apt sources, and the official container images name the
//! snapshot of their archive in comments; both are read here. The formats are those of sources.list(5): deb822 `*.sources` and one-line
//! `*.list`. The parsers are lenient and skip entries that they do not understand, since apt's files may hold more than silo needs.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest sources file; apt's own have a few hundred bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// An archive of binary packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The base address, without a trailing slash.
    pub uri: String,
    /// Suites or codenames, as written.
    pub suites: Vec<String>,
    /// Components, as written; empty for a flat archive.
    pub components: Vec<String>,
    /// Keyring paths or fingerprints, as written; an embedded key is left out.
    pub signed_by: Vec<String>,
    /// False if the entry is disabled.
    pub enabled: bool,
}

/// The apt sources of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AptSources {
    /// Archives in apt's order.
    pub entries: Vec<Entry>,
    /// Snapshot addresses in comments and URIs, without the timestamp, in order of appearance.
    pub snapshots: Vec<String>,
    /// One line for each unreadable file.
    pub warnings: Vec<String>,
}

/// Reads `sources.list` and `sources.list.d` in `apt_dir` (usually /etc/apt).
///
/// A missing file or directory counts as empty. An unreadable file (root often keeps those with passwords private) is skipped with a
/// warning: another file may be enough.
pub fn read_machine(apt_dir: &Path) -> AptSources {
    let mut machine = AptSources::default();
    let mut files = vec![apt_dir.join("sources.list")];
    let parts = apt_dir.join("sources.list.d");
    match list(&parts) {
        Ok(found) => files.extend(found),
        Err(err) => machine.warnings.push(format!("cannot read {}: {err}", parts.display())),
    }
    for path in files {
        match read_text(&path) {
            Ok(text) if path.extension().is_some_and(|ext| ext == "sources") => machine.add(&text, parse_deb822(&text)),
            Ok(text) => machine.add(&text, parse_lines(&text)),
            Err(err) => machine.warnings.push(format!("cannot read {}: {err}", path.display())),
        }
    }
    machine
}

impl AptSources {
    fn add(&mut self, text: &str, entries: Vec<Entry>) {
        self.entries.extend(entries);
        for base in snapshot_bases(text) {
            if !self.snapshots.contains(&base) {
                self.snapshots.push(base);
            }
        }
    }
}

/// Parses the deb822 format: stanzas of `Field: value`. Returns one entry for each URI of a stanza with binary packages.
pub fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(entries_of(&std::mem::take(&mut stanza)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn entries_of(stanza: &[(String, String)]) -> Vec<Entry> {
    let field = |name: &str| stanza.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    if !field("types").split_whitespace().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let off = ["no", "false", "without", "off", "disable", "0"];
    let enabled = !off.iter().any(|word| field("enabled").eq_ignore_ascii_case(word));
    let signed_by = field("signed-by");
    let signed_by = if signed_by.contains("-----BEGIN") { Vec::new() } else { words(signed_by) };
    field("uris")
        .split_whitespace()
        .map(|uri| Entry {
            uri: uri.trim_end_matches('/').to_owned(),
            suites: words(field("suites")),
            components: words(field("components")),
            signed_by: signed_by.clone(),
            enabled,
        })
        .collect()
}

/// Parses the one-line format: `deb [option=value ...] uri suite [component ...]`.
pub fn parse_lines(text: &str) -> Vec<Entry> {
    text.lines().filter_map(|line| parse_line(line.split('#').next().unwrap_or_default())).collect()
}

fn parse_line(line: &str) -> Option<Entry> {
    let mut rest = line.trim().strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    rest = rest.trim_start();
    let mut signed_by = Vec::new();
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        let given = options.split_whitespace().filter_map(|option| option.split_once('='));
        for (_, value) in given.filter(|(key, _)| key.eq_ignore_ascii_case("signed-by")) {
            signed_by.extend(value.split(',').map(str::to_owned));
        }
        rest = after;
    }
    // The name of a cdrom may contain spaces, so its line cannot be split.
    if rest.trim_start().starts_with("cdrom:") {
        return None;
    }
    let mut fields = rest.split_whitespace();
    Some(Entry {
        uri: fields.next()?.trim_end_matches('/').to_owned(),
        suites: vec![fields.next()?.to_owned()],
        components: fields.map(str::to_owned).collect(),
        signed_by,
        enabled: true,
    })
}

fn words(value: &str) -> Vec<String> {
    value.split_whitespace().map(str::to_owned).collect()
}

/// Finds every `<base>/<YYYYMMDDTHHMMSSZ>` address in a sources file, also in comments; returns the bases.
fn snapshot_bases(text: &str) -> Vec<String> {
    text.split_whitespace()
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .filter_map(|word| word.trim_end_matches('/').rsplit_once('/'))
        .filter(|(_, last)| is_timestamp(last))
        .map(|(base, _)| base.to_owned())
        .collect()
}

/// Whether `text` is a snapshot timestamp: `YYYYMMDDTHHMMSSZ`.
pub(super) fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 16
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

/// Returns the files that apt would read in `dir`, in its order.
fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let found = match std::fs::read_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let mut files = Vec::new();
    for entry in found {
        let path = entry?.path();
        let plain = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            (name.ends_with(".list") || name.ends_with(".sources"))
                && !name.starts_with('.')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        });
        if plain {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_text(path: &Path) -> io::Result<String> {
    let file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uri: &str, suites: &str, components: &str, signed_by: &str) -> Entry {
        Entry { uri: uri.to_owned(), suites: words(suites), components: words(components), signed_by: words(signed_by), enabled: true }
    }

    #[test]
    fn one_line_entries() {
        let table = [
            ("deb http://example.com/debian/ trixie main contrib", Some(entry("http://example.com/debian", "trixie", "main contrib", ""))),
            (
                "  deb\t[arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.gpg]  http://example.com/d sid main # x",
                Some(entry("http://example.com/d", "sid", "main", "/k/a.gpg /k/b.gpg")),
            ),
            ("deb [ trusted=yes ] file:/srv/debian ./", Some(entry("file:/srv/debian", "./", "", ""))),
            ("deb-src http://example.com/debian sid main", None),
            ("# deb http://example.com/debian sid main", None),
            ("deb cdrom:[Debian GNU/Linux 12 x]/ bookworm main", None),
            ("deb [unclosed http://example.com/debian sid main", None),
            ("deb http://example.com/debian", None),
            ("debug", None),
            ("", None),
        ];
        for (line, expect) in table {
            assert_eq!(parse_line(line.split('#').next().unwrap_or_default()), expect, "{line}");
        }
    }

    #[test]
    fn deb822_stanzas() {
        let text = "# head\nTypes: deb deb-src\nURIs: http://example.com/debian/\n  https://example.com/other\nsuites: trixie\n# between\n trixie-updates\nComponents: main\nSigned-By: /k/debian-archive-keyring.gpg\n\n\
            Types: deb-src\nURIs: http://example.com/src\nSuites: sid\n\n\
            Types: deb\nURIs: http://example.com/off\nSuites: sid\nEnabled: No\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n xx\n";
        let mut off = entry("http://example.com/off", "sid", "", "");
        off.enabled = false;
        let expect = vec![
            entry("http://example.com/debian", "trixie trixie-updates", "main", "/k/debian-archive-keyring.gpg"),
            entry("https://example.com/other", "trixie trixie-updates", "main", "/k/debian-archive-keyring.gpg"),
            off,
        ];
        assert_eq!(parse_deb822(text), expect);
        assert!(parse_deb822(" lonely continuation\n:\nTypes\n").is_empty());
    }

    #[test]
    fn snapshots_are_learned_from_comments_and_uris() {
        let text = "# http://example.com/archive/debian/20250520T000000Z\nURIs: https://example.com/archive/debian-security/20250520T000000Z/\n# http://example.com/archive/debian/2025\n# 20250520T000000Z";
        assert_eq!(snapshot_bases(text), ["http://example.com/archive/debian", "https://example.com/archive/debian-security"]);
    }
}
