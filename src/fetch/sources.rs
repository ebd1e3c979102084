//! Reads apt's configuration: which archives this machine installs from.
//!
//! Silo spells out no host of its own. A machine that runs Debian already says where its mirror is, and the official
//! container images say in comments which snapshot of the archive they were made from; both are read here. The formats
//! are those of sources.list(5): deb822 `*.sources` and one-line `*.list`. Reading is lenient, as apt's own files may
//! hold more than silo needs: what is not understood is left out.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A sources file above this is not one: apt's own are a few hundred bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// One archive that apt installs binary packages from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The base address, without a slash at its end.
    pub uri: String,
    /// Suites or codenames, as written.
    pub suites: Vec<String>,
    /// Components, as written; none for a flat archive.
    pub components: Vec<String>,
    /// The keyring paths or fingerprints, as written; a key in the file itself counts as none.
    pub signed_by: Vec<String>,
    /// False for what the file says is switched off.
    pub enabled: bool,
}

/// What was read from one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Archives in the order apt reads them.
    pub entries: Vec<Entry>,
    /// Snapshot addresses found in comments and URIs, the timestamp cut off, in the order seen.
    pub snapshots: Vec<String>,
    /// One line for each file that could not be read.
    pub warnings: Vec<String>,
}

/// Reads `sources.list` and `sources.list.d` below `apt_dir` (usually /etc/apt).
///
/// A missing file or directory is an empty one. One that cannot be read (files with passwords are often root's alone)
/// is left out with a warning: another file may be enough.
pub fn read_machine(apt_dir: &Path) -> Machine {
    let mut machine = Machine::default();
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

impl Machine {
    fn add(&mut self, text: &str, entries: Vec<Entry>) {
        self.entries.extend(entries);
        for base in snapshot_bases(text) {
            if !self.snapshots.contains(&base) {
                self.snapshots.push(base);
            }
        }
    }
}

/// Reads the deb822 form: stanzas of `Field: value`, one entry for each URI of a stanza that has binary packages.
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

/// Reads the one-line form: `deb [option=value ...] uri suite [component ...]`.
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
    // A cdrom's name may hold blanks, so its line does not split at them.
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

/// Finds every `<base>/<YYYYMMDDTHHMMSSZ>` address in a sources file, comments included, and returns the bases.
fn snapshot_bases(text: &str) -> Vec<String> {
    text.split_whitespace()
        .filter(|word| word.starts_with("http://") || word.starts_with("https://"))
        .filter_map(|word| word.trim_end_matches('/').rsplit_once('/'))
        .filter(|(_, last)| is_timestamp(last))
        .map(|(base, _)| base.to_owned())
        .collect()
}

/// Says whether `text` is a snapshot archive's name of a moment: `YYYYMMDDTHHMMSSZ`.
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
