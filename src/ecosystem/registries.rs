//! The user's own registries: what the package clients of this machine are told to use instead of the usual ones.
//!
//! A step's client must ask where the user's own would ask: a mirror, or a private index. So its setting is read as
//! the client itself reads it, and handed in as the variable that the client knows. User names and passwords in an
//! address stay outside. Reading is lenient, since the files hold much that is of no concern here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::document;
use crate::grant::{Host, split_port};

/// Variables that name registries, with the ecosystem of each.
const VARIABLES: [(&str, &str); 4] =
    [("PIP_INDEX_URL", "pypi"), ("PIP_EXTRA_INDEX_URL", "pypi"), ("npm_config_registry", "npm"), ("NPM_CONFIG_REGISTRY", "npm")];

/// The variables that [`read`] wants to know.
pub const ASKED: [&str; 5] = ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE", "npm_config_registry", "NPM_CONFIG_REGISTRY"];

/// A setting of the user's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registry {
    /// The ecosystem that it is of.
    pub ecosystem: &'static str,
    /// The variable that hands it in.
    pub variable: &'static str,
    /// Its value: one address, or several with spaces between.
    pub value: String,
}

impl Registry {
    /// Returns the hosts that it names, as grants.
    pub fn grants(&self) -> impl Iterator<Item = String> {
        self.value.split(' ').filter_map(|url| {
            let (usual, rest) = match url.split_once("://")? {
                ("https", rest) => (443, rest),
                (_, rest) => (80, rest),
            };
            let (host, port) = split_port(rest.split(['/', '?', '#']).next()?)?;
            Some(format!("{}:{}", Host::parse(host)?.as_str(), port.unwrap_or(usual)))
        })
    }
}

/// Reads the settings of a user whose home is `home`, from variables (some of [`ASKED`]) and files.
pub fn read(variables: &BTreeMap<String, String>, home: &Path) -> Vec<Registry> {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    // The last file counts, and a variable more than any file.
    let mut files: Vec<PathBuf> = vec!["/etc/xdg/pip/pip.conf".into(), "/etc/pip.conf".into()];
    files.extend([home.join(".pip/pip.conf"), home.join(".config/pip/pip.conf")]);
    files.extend(variables.get("PIP_CONFIG_FILE").map(PathBuf::from));
    for text in files.iter().filter_map(|path| text_of(path)) {
        values.extend(pip(&text));
    }
    values.extend(text_of(&home.join(".npmrc")).and_then(|text| npm(&text)).map(|url| ("npm_config_registry", url)));
    let registry = |(variable, ecosystem): (&'static str, &'static str)| {
        let value = variables.get(variable).or_else(|| values.get(variable))?;
        let urls: Vec<String> = value.split_whitespace().filter_map(without_secrets).collect();
        (!urls.is_empty()).then(|| Registry { ecosystem, variable, value: urls.join(" ") })
    };
    VARIABLES.into_iter().filter_map(registry).collect()
}

fn text_of(path: &Path) -> Option<String> {
    // A file that cannot be read does not count for its client either.
    document::text_of(path).ok().flatten()
}

/// Finds pip's settings in a file of its own.
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

/// Returns an address of http without user name and password; others cannot be reached from a sandbox.
fn without_secrets(url: &str) -> Option<String> {
    let url = url.trim_matches(['"', '\'']);
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))?;
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
        let values = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            read(&variables, dir.path())
        };
        let told: Vec<String> = values(&[]).iter().map(|registry| format!("{}={}", registry.variable, registry.value)).collect();
        let expect = [
            "PIP_INDEX_URL=https://pypi.example:8443/simple",
            "PIP_EXTRA_INDEX_URL=http://one.example/ http://two.example/",
            "npm_config_registry=https://npm.example/",
        ];
        assert_eq!(told, expect);
        let over = values(&[("PIP_INDEX_URL", "http://[::1]:81/simple")]);
        assert_eq!(over[0].grants().collect::<Vec<_>>(), ["[::1]:81"]);
        assert_eq!(over[1].grants().collect::<Vec<_>>(), ["one.example:80", "two.example:80"]);
    }
}
