//! The user's own registries: the mirrors and private indexes that the host's package clients use.
//!
//! A step's client must use the same registries as the user's own. So each setting is read as the client itself reads it, and passed to the
//! step as the variable that the client knows. User names and passwords in an address are left out. The parsers are lenient, since the
//! files hold many other settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::document;
use silo_base::grant::{Host, HostGrant, split_port};

/// Variables that name registries, with their ecosystems.
const VARIABLES: [(&str, &str); 6] = [
    ("PIP_INDEX_URL", "pypi"),
    ("PIP_EXTRA_INDEX_URL", "pypi"),
    ("npm_config_registry", "npm"),
    ("NPM_CONFIG_REGISTRY", "npm"),
    ("GOPROXY", "go"),
    (CARGO, "crates"),
];

/// The prefix of a sparse registry's address (cargo without git).
const SPARSE: &str = "sparse+";
/// cargo's setting; it has a file for it, but no variable.
const CARGO: &str = "source.crates-io";
/// The path of cargo's configuration for all projects.
const CARGO_FILE: &str = "/.cargo/config.toml";
/// The most `replace-with` sources to follow.
const MAX_SOURCES: usize = 8;

/// The variables that [`read`] uses.
pub const ASKED: [&str; 7] =
    ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "npm_config_registry", "NPM_CONFIG_REGISTRY", "GOPROXY", "CARGO_HOME"];

/// A registry setting.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registry {
    /// The ecosystem.
    pub ecosystem: &'static str,
    /// The variable that passes it to the client.
    pub variable: &'static str,
    /// The value: one address, or several with the client's separators.
    pub value: String,
}

impl Registry {
    /// Returns a setting of a record, if it is one of those that [`read`] gives: a record may come from anywhere.
    pub fn recorded(variable: &str, value: &str) -> Option<Registry> {
        let (variable, ecosystem) = VARIABLES.into_iter().find(|(known, _)| *known == variable)?;
        let kept = if variable == "GOPROXY" { proxies(value) } else { urls(value) };
        (!kept.is_empty() && kept == value).then_some(Registry { ecosystem, variable, value: kept })
    }

    /// Returns the path and text of the file that passes the setting, for a client without a variable.
    pub fn file(&self) -> Option<(&'static str, String)> {
        let text = || format!("[source.crates-io]\nreplace-with = \"machine\"\n\n[source.machine]\nregistry = {:?}\n", self.value);
        (self.variable == CARGO).then(|| (CARGO_FILE, text()))
    }

    /// Returns the hosts in the value, as grants.
    pub fn grants(&self) -> impl Iterator<Item = HostGrant> {
        self.value.split([' ', ',', '|']).filter_map(|url| {
            let (usual, rest) = match url.trim_start_matches(SPARSE).split_once("://")? {
                ("https", rest) => (443, rest),
                (_, rest) => (80, rest),
            };
            let (host, port) = split_port(rest.split(['/', '?', '#']).next()?)?;
            HostGrant::parse(&format!("{}:{}", Host::parse(host)?.as_str(), port.unwrap_or(usual)))
        })
    }
}

/// Reads the settings of a user with the home `home`, from variables (those of [`ASKED`]) and files.
pub fn read(variables: &BTreeMap<String, String>, home: &Path) -> Vec<Registry> {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    // The last file wins; a variable overrides every file.
    let mut files: Vec<PathBuf> = vec!["/etc/xdg/pip/pip.conf".into(), "/etc/pip.conf".into()];
    files.extend([home.join(".pip/pip.conf"), home.join(".config/pip/pip.conf")]);
    files.extend(variables.get("PIP_CONFIG_FILE").map(PathBuf::from));
    for text in files.iter().filter_map(|path| text_of(path)) {
        values.extend(pip(&text));
    }
    values.extend(text_of(&home.join(".npmrc")).and_then(|text| npm(&text)).map(|url| ("npm_config_registry", url)));
    values.extend(text_of(&home.join(".config/go/env")).and_then(|text| go(&text)).map(|list| ("GOPROXY", list)));
    let cargo_home = variables.get("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // The older name wins, as in cargo.
    let cargo = ["config", "config.toml"].into_iter().find_map(|name| text_of(&cargo_home.join(name)));
    values.extend(cargo.and_then(|text| crates(&text)).map(|url| (CARGO, url)));
    let registry = |(variable, ecosystem): (&'static str, &'static str)| {
        let value = variables.get(variable).or_else(|| values.get(variable))?;
        let value = if variable == "GOPROXY" { proxies(value) } else { urls(value) };
        (!value.is_empty()).then_some(Registry { ecosystem, variable, value })
    };
    VARIABLES.into_iter().filter_map(registry).collect()
}

fn text_of(path: &Path) -> Option<String> {
    // The client itself ignores an unreadable file too.
    document::text_of(path).ok().flatten()
}

/// Parses pip's configuration file.
fn pip(text: &str) -> BTreeMap<&'static str, String> {
    let mut found: BTreeMap<&'static str, String> = BTreeMap::new();
    let (mut counts, mut open) = (false, None);
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = open.and_then(|variable| found.get_mut(variable)) {
                *value = format!("{value} {}", line.trim());
            }
            continue;
        }
        open = None;
        if let Some(section) = line.strip_prefix('[') {
            counts = ["global]", "install]", "download]"].contains(&section.trim_end());
        } else if let Some((key, value)) = line.split_once(['=', ':']).filter(|_| counts) {
            open = match key.trim().replace('_', "-").as_str() {
                "index-url" => Some("PIP_INDEX_URL"),
                "extra-index-url" => Some("PIP_EXTRA_INDEX_URL"),
                _ => None,
            };
            found.extend(open.map(|variable| (variable, value.trim().to_owned())));
        }
    }
    found
}

/// Finds npm's registry in a file of its own.
fn npm(text: &str) -> Option<String> {
    let value = |line: &str| line.split_once('=').filter(|(key, _)| key.trim() == "registry").map(|(_, value)| value.trim().to_owned());
    text.lines().filter_map(value).next_back()
}

/// Finds go's proxies in its environment file.
fn go(text: &str) -> Option<String> {
    text.lines().filter_map(|line| line.strip_prefix("GOPROXY=")).next_back().map(|value| value.trim().to_owned())
}

/// Finds the replacement of cargo's default registry in its configuration.
fn crates(text: &str) -> Option<String> {
    let settings: toml::Table = text.parse().ok()?;
    let sources = settings.get("source")?.as_table()?;
    let mut source = sources.get("crates-io")?.as_table()?;
    for _ in 0..MAX_SOURCES {
        match source.get("replace-with") {
            Some(next) => source = sources.get(next.as_str()?)?.as_table()?,
            // Other kinds are a directory, or a repository that needs git.
            None => return source.get("registry")?.as_str().filter(|url| url.starts_with(SPARSE)).map(str::to_owned),
        }
    }
    None
}

/// Keeps the usable addresses of a list with spaces.
fn urls(value: &str) -> String {
    value.split_whitespace().filter_map(without_secrets).collect::<Vec<_>>().join(" ")
}

/// Keeps the usable addresses and keywords of go's list, with their separators.
fn proxies(value: &str) -> String {
    let mut kept = String::new();
    for part in value.split_inclusive([',', '|']) {
        let (word, end) = match part.strip_suffix([',', '|']) {
            Some(word) => (word, &part[word.len()..]),
            None => (part, ""),
        };
        let word = if ["direct", "off"].contains(&word) { Some(word.to_owned()) } else { without_secrets(word) };
        kept.extend(word.map(|word| word + end));
    }
    kept.trim_end_matches([',', '|']).to_owned()
}

/// Returns an http address without user name and password; a sandbox can reach no others.
fn without_secrets(url: &str) -> Option<String> {
    let url = url.trim_matches(['"', '\'']);
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(&scheme.trim_start_matches(SPARSE)))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    Some(format!("{scheme}://{place}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_their_clients_read_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below")).expect("made");
            std::fs::write(&path, text).expect("written");
        };
        write(".pip/pip.conf", "[global]\nindex-url = http://old.example/\n[freeze]\nindex-url = http://no.example\n");
        write(
            ".config/pip/pip.conf",
            "[global]\nindex_url: https://user:pw@pypi.example:8443/simple\n# x\nextra-index-url =\n  http://one.example/\n  file:///x\n  http://two.example/\ntimeout = 60\n",
        );
        write(".npmrc", "//npm.example/:_authToken=secret\n@a:registry=https://b.example\nregistry = \"https://npm.example/\"\n");
        write(".config/go/env", "GOFLAGS=-mod=mod\nGOPROXY=https://u:p@go.example/x|file:///y,http://two.example:81,direct\n");
        write(
            ".cargo/config.toml",
            "[source.crates-io]\nreplace-with = 'a'\n[source.a]\nreplace-with = 'b'\n[source.b]\nregistry = 'sparse+https://me:pw@crates.example:444/index/'\n",
        );
        let values = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            read(&variables, dir.path())
        };
        let told: Vec<String> = values(&[]).iter().map(|registry| format!("{}={}", registry.variable, registry.value)).collect();
        let expect = [
            "PIP_INDEX_URL=https://pypi.example:8443/simple",
            "PIP_EXTRA_INDEX_URL=http://one.example/ http://two.example/",
            "npm_config_registry=https://npm.example/",
            "GOPROXY=https://go.example/x|http://two.example:81,direct",
            "source.crates-io=sparse+https://crates.example:444/index/",
        ];
        assert_eq!(told, expect);
        let grants = |registry: &Registry| registry.grants().map(String::from).collect::<Vec<_>>();
        let over = values(&[("PIP_INDEX_URL", "http://[::1]:81/simple")]);
        assert_eq!(grants(&over[0]), ["[::1]:81"]);
        assert_eq!(grants(&over[1]), ["one.example:80", "two.example:80"]);
        assert_eq!(grants(&over[3]), ["go.example:443", "two.example:81"]);
        assert_eq!((grants(&over[4]), over[3].file()), (vec!["crates.example:444".to_owned()], None));
        let (place, text) = over[4].file().expect("cargo reads a file");
        assert_eq!(place, "/.cargo/config.toml");
        assert_eq!(crates(&text).as_deref(), Some("sparse+https://crates.example:444/index/"));
        for text in [
            "",
            "x",
            "[source.crates-io]\nregistry = 'https://git.example'",
            "[source.crates-io]\nreplace-with = 'crates-io'",
            "source = 1",
        ] {
            assert_eq!(crates(text), None, "{text}");
        }
        assert_eq!((proxies("off"), proxies("file:///x,|"), proxies("a b")), ("off".to_owned(), String::new(), String::new()));
    }
}
