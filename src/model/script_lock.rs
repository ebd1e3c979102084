//! Pins of a script's dependencies: `SCRIPT.lock` beside the script, in the format of uv.
//!
//! Silo reads name, version, digests and edges. The addresses in the file do not count: pip asks the configured index for the same files.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::script::{Dependency, ScriptMetadata, normalised, parse};

/// Version of uv's format that this program reads.
const VERSION: u32 = 1;

/// Limits of a lock; the largest published ones have a few hundred packages.
const MAX_PACKAGES: usize = 2000;
const MAX_FILES: usize = 400;

/// The pins of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptLock {
    requirements: BTreeSet<Dependency>,
    packages: Vec<Package>,
}

/// An unusable lock.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not TOML, or not in this format.
    #[error("{0}")]
    Toml(String),
    /// A newer format.
    #[error("version {0} is not supported; this silo reads version {VERSION}")]
    Version(u32),
    /// A package that pip cannot install by name and version.
    #[error("package {0}: {1}")]
    Package(String, &'static str),
    /// More entries than supported.
    #[error("it has more packages or files than supported")]
    Large,
}

#[derive(Deserialize)]
struct Written {
    version: u32,
    #[serde(default)]
    manifest: Manifest,
    #[serde(default)]
    package: Vec<Package>,
}

#[derive(Deserialize, Default)]
struct Manifest {
    #[serde(default)]
    requirements: Vec<Requirement>,
}

#[derive(Deserialize)]
struct Requirement {
    name: String,
    #[serde(default)]
    extras: Vec<String>,
    #[serde(default)]
    specifier: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    version: String,
    source: Source,
    #[serde(default)]
    dependencies: Vec<Edge>,
    #[serde(default)]
    sdist: Option<File>,
    #[serde(default)]
    wheels: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Source {
    registry: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Edge {
    name: String,
    marker: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct File {
    #[serde(default)]
    url: String,
    hash: Option<String>,
}

/// Reads the text of a lock.
pub fn read(text: &str) -> Result<ScriptLock, Error> {
    let Written { version, manifest, package: packages } = toml::from_str(text).map_err(|error| Error::Toml(error.message().to_owned()))?;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    if packages.len() > MAX_PACKAGES || packages.iter().any(|package| package.wheels.len() > MAX_FILES) {
        return Err(Error::Large);
    }
    let mut seen = BTreeSet::new();
    for package in &packages {
        let wrong = |what| Err(Error::Package(package.name.chars().take(100).collect(), what));
        let is_version = |c: char| c.is_ascii_alphanumeric() || ".+!_-".contains(c);
        let edges = || package.dependencies.iter();
        if parse(&package.name).is_none_or(|name| name.name != package.name) || edges().any(|edge| parse(&edge.name).is_none()) {
            return wrong("it is not a package name");
        }
        if package.source.registry.is_none() {
            return wrong("it is not from a package index");
        }
        if package.version.is_empty() || !package.version.chars().all(is_version) {
            return wrong("it has no version");
        }
        if edges().filter_map(|edge| edge.marker.as_ref()).any(|marker| marker.len() > 500 || marker.contains(char::is_control)) {
            return wrong("it has an invalid marker");
        }
        if !seen.insert(package.name.as_str()) {
            return wrong("it has several versions for several systems, which silo does not support; remove the lock to make a new one");
        }
    }
    let requirements = manifest.requirements.into_iter().map(|one| dependency(&one)).collect();
    Ok(ScriptLock { requirements, packages })
}

fn dependency(written: &Requirement) -> Dependency {
    let text = format!("{}[{}]{}", written.name, written.extras.join(","), written.specifier);
    parse(&text).unwrap_or_else(|| Dependency {
        name: written.name.clone(),
        extras: Vec::new(),
        specifiers: Vec::new(),
        marker: String::new(),
    })
}

impl ScriptLock {
    /// True if the lock was made for these dependencies. Markers do not count, because uv writes them in another form.
    pub fn is_of(&self, metadata: &ScriptMetadata) -> bool {
        let wanted = metadata.dependencies.iter().filter_map(|text| parse(text));
        self.requirements == wanted.map(|one| Dependency { marker: String::new(), ..one }).collect()
    }

    /// Returns the lines of a requirements file for pip: versions with the digests of their files for Linux.
    pub fn lines(&self) -> Result<Vec<String>, Error> {
        let roots: BTreeSet<&str> = self.requirements.iter().map(|one| one.name.as_str()).collect();
        // A package that only edges with a marker need is for some systems only.
        let mut markers: BTreeMap<String, Option<BTreeSet<&str>>> = BTreeMap::new();
        for edge in self.packages.iter().flat_map(|package| &package.dependencies) {
            let known = markers.entry(normalised(&edge.name)).or_insert_with(|| Some(BTreeSet::new()));
            match (&edge.marker, known) {
                (Some(marker), Some(known)) => drop(known.insert(marker)),
                (_, known) => *known = None,
            }
        }
        let line = |package: &Package| {
            let marker = markers.get(&package.name).and_then(Option::as_ref).filter(|_| !roots.contains(package.name.as_str()));
            let marker = marker.filter(|all| !all.is_empty()).map_or_else(String::new, |all| {
                let any: Vec<String> = all.iter().map(|marker| format!("({marker})")).collect();
                format!(" ; {}", any.join(" or "))
            });
            let digests: BTreeSet<&str> =
                package.wheels.iter().filter(|file| is_for_linux(file)).chain(&package.sdist).filter_map(digest).collect();
            if digests.is_empty() {
                return Err(Error::Package(package.name.clone(), "it has no file with a sha256 digest for Linux"));
            }
            let digests: String = digests.iter().map(|digest| format!(" --hash=sha256:{digest}")).collect();
            Ok(format!("{}=={}{marker}{digests}", package.name, package.version))
        };
        self.packages.iter().map(line).collect()
    }
}

fn digest(file: &File) -> Option<&str> {
    let digest = file.hash.as_deref()?.strip_prefix("sha256:")?;
    (digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit())).then_some(digest)
}

fn is_for_linux(file: &File) -> bool {
    let name = file.url.split(['#', '?']).next().unwrap_or_default();
    name.ends_with("-any.whl") || (name.contains("linux") && !name.contains("musllinux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"version = 1
revision = 5
requires-python = ">=3.11"

[manifest]
requirements = [
    { name = "rich", extras = ["jupyter"], marker = "python_full_version >= '3.9'", specifier = ">=13,<14" },
    { name = "six" },
]

[[package]]
name = "colorama"
version = "0.4.6"
source = { registry = "https://pypi.example.com/simple" }
wheels = [{ url = "https://files.example.com/colorama-0.4.6-py2.py3-none-any.whl", hash = "sha256:DIGEST1", size = 1 }]

[[package]]
name = "rich"
version = "13.9.4"
source = { registry = "https://pypi.example.com/simple" }
dependencies = [{ name = "colorama", marker = "sys_platform == 'win32'" }, { name = "six" }]
sdist = { url = "https://files.example.com/rich-13.9.4.tar.gz", hash = "sha256:DIGEST2" }
wheels = [
    { url = "https://files.example.com/rich-13.9.4-cp311-cp311-win32.whl", hash = "sha256:DIGEST3" },
    { url = "https://files.example.com/rich-13.9.4-cp311-cp311-manylinux_2_17_x86_64.whl", hash = "sha256:DIGEST4" },
]

[[package]]
name = "six"
version = "1.17.0"
source = { registry = "https://pypi.example.com/simple" }
wheels = [{ url = "https://files.example.com/six-1.17.0-py2.py3-none-any.whl", hash = "sha256:DIGEST5" }]
"#;

    fn lock() -> String {
        (1..6).fold(LOCK.to_owned(), |text, n| text.replace(&format!("DIGEST{n}"), &format!("{n}").repeat(64)))
    }

    fn of(dependencies: &[&str]) -> ScriptMetadata {
        ScriptMetadata { dependencies: dependencies.iter().map(|text| (*text).to_owned()).collect(), ..ScriptMetadata::default() }
    }

    #[test]
    fn uvs_locks_are_read() {
        let lock = read(&lock()).expect("a lock");
        assert!(lock.is_of(&of(&["six", "rich[jupyter]>=13,<14 ; python_version >= '3.9'"])));
        for other in [&["six"][..], &["six", "rich>=13,<14"], &["six>1", "rich[jupyter]>=13,<14"]] {
            assert!(!lock.is_of(&of(other)), "{other:?}");
        }
        let hash = |n: &str| format!(" --hash=sha256:{}", n.repeat(64));
        let expect = [
            format!("colorama==0.4.6 ; (sys_platform == 'win32'){}", hash("1")),
            format!("rich==13.9.4{}{}", hash("2"), hash("4")),
            format!("six==1.17.0{}", hash("5")),
        ];
        assert_eq!(lock.lines().expect("lines"), expect);
    }

    #[test]
    fn unusable_locks_are_refused() {
        for (from, to, expect) in [
            ("version = 1\n", "version = 2\n", "version 2 is not supported"),
            ("name = \"six\"\nversion = \"1.17.0\"", "name = \"-e\"\nversion = \"1.17.0\"", "package -e: it is not a package name"),
            ("version = \"1.17.0\"", "version = \"1 --hash\"", "package six: it has no version"),
            (
                "version = \"1.17.0\"\nsource = { registry",
                "version = \"1.17.0\"\nsource = { git",
                "package six: it is not from a package index",
            ),
            ("name = \"six\"\nversion", "name = \"rich\"\nversion", "package rich: it has several versions"),
            ("win32'\"", "win32'\\n-e x\"", "package rich: it has an invalid marker"),
            ("[manifest]", "[manifest", "unclosed table"),
        ] {
            let error = read(&lock().replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(expect), "{to}: {error}");
        }
        let weak = lock().replace("sha256:5", "md5:5");
        assert!(read(&weak).expect("a lock").lines().is_err());
    }
}
