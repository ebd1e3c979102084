//! Finds Debian's own archives among the host's apt sources, and builds the candidate addresses of a file.

use silo_model::lock::Archive;

use super::sources::{AptSources, Entry, is_timestamp};

/// Prefixes of Debian's own suites. A release outside this list is not found automatically; its mirror can still be set in silo.toml.
const SUITES: [&str; 14] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "testing",
    "unstable",
    "oldstable",
    "oldoldstable",
    "experimental",
    "rc-buggy",
    "buster",
];

/// Suffixes of a suite's name.
const POCKETS: [&str; 6] = ["", "-updates", "-backports", "-security", "-proposed-updates", "/updates"];

/// Debian's components. An entry with any other component belongs to another archive that reuses Debian's suite names.
const COMPONENTS: [&str; 4] = ["main", "contrib", "non-free", "non-free-firmware"];

/// Base addresses of Debian's archives, in the order to try.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrors {
    /// Bases of the main archive.
    pub archive: Vec<String>,
    /// Bases of the security archive.
    pub security: Vec<String>,
    /// Bases of the snapshot archive.
    pub snapshot: Snapshot,
}

/// Bases of the snapshot archive; `<base>/<YYYYMMDDTHHMMSSZ>` is a mirror as of that time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// For the main archive.
    pub archive: Option<String>,
    /// For the security archive.
    pub security: Option<String>,
}

/// Mirrors from the user's settings; an empty list or `None` keeps the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Bases of the main archive: http, https, file addresses or absolute paths.
    pub archive: Vec<String>,
    /// Bases of the security archive.
    pub security: Vec<String>,
    /// Base of the main archive's snapshots.
    pub snapshot_archive: Option<String>,
    /// Base of the security archive's snapshots.
    pub snapshot_security: Option<String>,
}

/// Returns the mirrors of the host's apt sources, with the user's settings first.
pub fn mirrors(machine: &AptSources, overrides: &Overrides) -> Mirrors {
    let mut mirrors = debian_mirrors(&machine.entries);
    mirrors.snapshot = snapshot(&machine.snapshots);
    if !overrides.archive.is_empty() {
        mirrors.archive = overrides.archive.iter().map(|base| base_of(base)).collect();
    }
    if !overrides.security.is_empty() {
        mirrors.security = overrides.security.iter().map(|base| base_of(base)).collect();
    }
    if let Some(base) = &overrides.snapshot_archive {
        mirrors.snapshot.archive = Some(base_of(base));
    }
    if let Some(base) = &overrides.snapshot_security {
        mirrors.snapshot.security = Some(base_of(base));
    }
    mirrors
}

/// Selects the bases of Debian's archives from apt's entries, without duplicates.
pub fn debian_mirrors(entries: &[Entry]) -> Mirrors {
    let mut mirrors = Mirrors::default();
    for entry in entries.iter().filter(|entry| is_debian(entry)) {
        for suite in entry.suites.iter().filter(|suite| is_suite(suite)) {
            let list = if is_security(suite) { &mut mirrors.security } else { &mut mirrors.archive };
            let base = base_of(&entry.uri);
            if !list.contains(&base) {
                list.push(base);
            }
        }
    }
    mirrors
}

/// Selects the snapshot bases; those of the security archive end in `-security`.
fn snapshot(bases: &[String]) -> Snapshot {
    let ending = |end: &str| bases.iter().find(|base| base.ends_with(end)).cloned();
    Snapshot { archive: ending("/debian"), security: ending("/debian-security") }
}

impl Mirrors {
    /// Returns the candidate addresses of `path` (such as a pool path): live mirrors first, then the snapshot of `moment`.
    pub fn candidates(&self, archive: &Archive, path: &str, moment: Option<&str>) -> Vec<String> {
        let (live, snapshot) = match archive {
            Archive::Main => (&self.archive, &self.snapshot.archive),
            Archive::Security => (&self.security, &self.snapshot.security),
            Archive::Source(uri) => return vec![join(uri, path)],
            // The caller, which knows the recipe's directory, adds this source.
            Archive::Local => return Vec::new(),
        };
        let mut urls: Vec<String> = live.iter().map(|base| join(base, path)).collect();
        if let (Some(base), Some(moment)) = (snapshot, moment.filter(|moment| is_timestamp(moment))) {
            urls.push(join(&format!("{base}/{moment}"), path));
        }
        urls
    }
}

/// Appends an archive's path to a base address.
///
/// Escapes `+` and `~` as apt does, since some object stores decode them, and all characters that a URL must not contain.
pub fn join(base: &str, path: &str) -> String {
    let mut url = base.trim_end_matches('/').to_owned();
    url.push('/');
    let path = path.trim_start_matches('/');
    if base.starts_with('/') {
        url.push_str(path);
        return url;
    }
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._/:=,@".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02x}"));
        }
    }
    url
}

fn is_debian(entry: &Entry) -> bool {
    // silo could not verify other archives, which sign with other keys; Debian's keyrings are all named debian-*.
    let foreign = |key: &String| key.rsplit_once('/').is_some_and(|(_, name)| !name.starts_with("debian"));
    entry.enabled
        && ["http://", "https://", "file:", "copy:", "/"].iter().any(|start| entry.uri.starts_with(start))
        && !entry.uri.contains("$(")
        && !entry.signed_by.iter().any(foreign)
        && !entry.components.is_empty()
        && entry.components.iter().all(|name| COMPONENTS.contains(&name.trim_start_matches("updates/")))
}

fn is_suite(suite: &str) -> bool {
    let suite = suite.trim_end_matches('/');
    SUITES.iter().any(|name| suite.strip_prefix(name).is_some_and(|pocket| POCKETS.contains(&pocket)))
}

fn is_security(suite: &str) -> bool {
    let suite = suite.trim_end_matches('/');
    suite.ends_with("-security") || suite.ends_with("/updates")
}

/// Trims trailing slashes. apt's `copy:` becomes `file:`, since silo always copies.
fn base_of(uri: &str) -> String {
    let uri = uri.trim_end_matches('/');
    uri.strip_prefix("copy:").map_or_else(|| uri.to_owned(), |path| format!("file:{path}"))
}

#[cfg(test)]
mod tests {
    use super::super::sources::{parse_deb822, parse_lines};
    use super::*;

    #[test]
    fn debian_is_distinguished_from_other_archives() {
        let lines = "\
            deb http://example.com/debian trixie main\n\
            deb http://example.com/debian/ trixie-updates main non-free-firmware\n\
            deb http://example.com/debian-security trixie-security main\n\
            deb http://example.com/old-security buster/updates main\n\
            deb copy:/srv/mirror sid main\n\
            deb [signed-by=/k/debian-archive-keyring.pgp] https://example.com/two stable main\n\
            deb [signed-by=/k/vendor.gpg] https://example.com/vendor stable main\n\
            deb https://example.com/docker bookworm stable\n\
            deb https://example.com/pg trixie-pgdg main\n\
            deb https://example.com/ubuntu noble main\n\
            deb https://example.com/flat ./\n\
            deb mirror+file:/etc/apt/mirrors/debian.list trixie main\n\
            deb mirror+http://example.com/list trixie main\n\
            deb tor+http://example.com/debian trixie main\n\
            deb https://example.com/$(ARCH) trixie main\n";
        let found = debian_mirrors(&parse_lines(lines));
        assert_eq!(found.archive, ["http://example.com/debian", "file:/srv/mirror", "https://example.com/two"]);
        assert_eq!(found.security, ["http://example.com/debian-security", "http://example.com/old-security"]);
    }

    #[test]
    fn one_base_may_carry_both_and_switched_off_ones_carry_nothing() {
        let text = "Types: deb\nURIs: http://example.com/all\nSuites: trixie trixie-security\nComponents: main\n\nTypes: deb\nEnabled: no\nURIs: http://example.com/off\nSuites: trixie\nComponents: main\n";
        let found = debian_mirrors(&parse_deb822(text));
        assert_eq!((found.archive, found.security), (vec!["http://example.com/all".to_owned()], vec!["http://example.com/all".to_owned()]));
    }

    #[test]
    fn wishes_come_first_and_candidates_end_with_the_snapshot() {
        let machine = AptSources {
            entries: parse_lines("deb http://example.com/debian trixie main"),
            snapshots: vec!["http://example.com/archive/debian".to_owned(), "http://example.com/archive/debian-security".to_owned()],
            warnings: Vec::new(),
        };
        let found = mirrors(&machine, &Overrides::default());
        assert_eq!(
            found.candidates(&Archive::Main, "pool/main/g/g++/g++_1~2+b1.deb", Some("20250520T000000Z")),
            [
                "http://example.com/debian/pool/main/g/g%2b%2b/g%2b%2b_1%7e2%2bb1.deb",
                "http://example.com/archive/debian/20250520T000000Z/pool/main/g/g%2b%2b/g%2b%2b_1%7e2%2bb1.deb"
            ]
        );
        assert_eq!(found.candidates(&Archive::Main, "x", Some("../evil")).len(), 1);
        assert_eq!(
            found.candidates(&Archive::Security, "x", Some("20250520T000000Z")),
            ["http://example.com/archive/debian-security/20250520T000000Z/x"]
        );
        let wishes = Overrides {
            archive: vec!["/srv/mirror/".to_owned()],
            snapshot_archive: Some("http://example.com/snap/".to_owned()),
            ..Overrides::default()
        };
        let found = mirrors(&machine, &wishes);
        assert_eq!(
            found.candidates(&Archive::Main, "a+b", Some("20250520T000000Z")),
            ["/srv/mirror/a+b", "http://example.com/snap/20250520T000000Z/a%2bb"]
        );
    }
}
