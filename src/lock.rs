//! Locks: the exact packages of a recipe, for every architecture, with digests and sizes.
//!
//! A lock is data only; `resolve` makes it and `fetch` obeys it. It is written by our own code, one
//! line a package and sorted, so that two people's changes merge and making it again changes nothing
//! that did not change. It names pool paths and digests, never hosts. `docs/lock.md` is the format's page.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use silo_store::digest::Digest;

use crate::document;
use crate::moment;
use crate::recipe::Debian;
use crate::system::Arch;

/// The version of the format that this program reads and writes.
pub const VERSION: u32 = 1;

/// The exact packages of one recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The recipe's name.
    pub recipe: String,
    /// What was asked for; a recipe that asks for something else needs another lock.
    pub asked: Asked,
    /// Seconds since 1970 of the newest index used: the build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The signed indexes that were used.
    pub indexes: Vec<UsedIndex>,
    /// The packages by architecture and name.
    pub packages: BTreeMap<Arch, BTreeMap<String, Package>>,
}

/// The part of a recipe that decides which packages are needed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The release's codename.
    pub suite: String,
    /// The archive's areas.
    pub components: Vec<String>,
    /// The packages wanted.
    pub packages: Vec<String>,
    /// Whether recommended packages come too.
    pub recommends: bool,
}

impl Asked {
    /// Takes what decides the packages out of a recipe.
    pub fn by(debian: &Debian) -> Asked {
        Asked {
            suite: debian.suite.clone(),
            components: debian.components.clone(),
            packages: debian.packages.clone(),
            recommends: debian.recommends,
        }
    }
}

/// A signed index that was used to make a lock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedIndex {
    /// The suite it is of, such as `trixie-security`.
    pub suite: String,
    /// Its date, in seconds since 1970.
    pub date: i64,
    /// The digest of its InRelease file.
    pub inrelease: Sha256,
    /// The fingerprint of the key that signed it.
    pub key: String,
}

/// Which of a distribution's two archives a package lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// The main archive.
    Main,
    /// The archive of security updates.
    Security,
}

impl Archive {
    fn name(self) -> &'static str {
        match self {
            Archive::Main => "main",
            Archive::Security => "security",
        }
    }
}

/// One exact package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its version.
    pub version: String,
    /// The archive it lies in.
    pub archive: Archive,
    /// Its path below the archive's root.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// A sha-256 as locks write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Sha256(pub Digest);

impl TryFrom<String> for Sha256 {
    type Error = String;

    fn try_from(text: String) -> Result<Sha256, String> {
        Digest::parse(&text).map(Sha256).map_err(|_| format!("\"{text}\" is not a sha-256 of 64 lower-case hexadecimal digits"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    recipe: String,
    epoch: i64,
    asked: Asked,
    index: Vec<UsedIndex>,
    amd64: BTreeMap<String, Package>,
    arm64: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Parses the lock `text`, which came from `path`.
pub fn parse(text: &str, path: &Path) -> Result<Lock, document::Error> {
    let wrong = |message: String| document::Error::Meaning { path: path.to_owned(), message };
    let version = document::parse::<Versioned>(text, path)?.version;
    if version != VERSION {
        return Err(wrong(format!("lock version {version} is not known to this silo, which reads version {VERSION}")));
    }
    let written: Written = document::parse(text, path)?;
    let packages = BTreeMap::from([(Arch::Amd64, written.amd64), (Arch::Arm64, written.arm64)]);
    for (name, package) in packages.values().flatten() {
        if !is_pool_path(&package.path) {
            return Err(wrong(format!("package {name}: \"{}\" is not a path below an archive", package.path)));
        }
    }
    debug_assert_eq!(written.version, VERSION);
    Ok(Lock { recipe: written.recipe, asked: written.asked, epoch: written.epoch, indexes: written.index, packages })
}

/// A path that can be put behind a mirror's URL without leaving it.
fn is_pool_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~%:".contains(c);
    path.len() <= 1024 && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain))
}

/// Writes a lock as text.
pub fn write(lock: &Lock) -> String {
    let mut text = format!(
        "# Made by `silo lock {name}`: the exact packages of the recipe \"{name}\". Check it in; do not edit it.\nversion = {VERSION}\nrecipe = {recipe}\nepoch = {epoch}\n\n[asked]\nsuite = {suite}\ncomponents = {components}\npackages = {packages}\nrecommends = {recommends}\n",
        name = lock.recipe,
        recipe = quoted(&lock.recipe),
        epoch = lock.epoch,
        suite = quoted(&lock.asked.suite),
        components = list(&lock.asked.components),
        packages = list(&lock.asked.packages),
        recommends = lock.asked.recommends,
    );
    for index in &lock.indexes {
        push(
            &mut text,
            format_args!(
                "\n[[index]]\nsuite = {}\ndate = {}\ninrelease = \"{}\"\nkey = {}\n",
                quoted(&index.suite),
                index.date,
                index.inrelease.0,
                quoted(&index.key),
            ),
        );
    }
    for (arch, packages) in &lock.packages {
        push(&mut text, format_args!("\n[{arch}]\n"));
        for (name, package) in packages {
            push(
                &mut text,
                format_args!(
                    "{} = {{ version = {}, archive = \"{}\", path = {}, size = {}, sha256 = \"{}\" }}\n",
                    quoted(name),
                    quoted(&package.version),
                    package.archive.name(),
                    quoted(&package.path),
                    package.size,
                    package.sha256.0,
                ),
            );
        }
    }
    text
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.write_fmt(line).expect("writing to a string cannot fail");
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

/// Returns the moment for which the snapshot archive is asked, as `YYYYMMDDTHHMMSSZ`.
///
/// The archive is photographed a few times a day, so what an index names may be missing from the last
/// picture before the index's date; a day later it is there, and superseded files are kept by the later ones.
pub fn snapshot_time(lock: &Lock) -> String {
    const DAY_SECS: i64 = 86_400;
    moment::compact(lock.epoch.saturating_add(DAY_SECS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let package = Package {
            version: "1:2.0~rc1-3".into(),
            archive: Archive::Security,
            path: "pool/updates/main/h/hello/hello_2.0~rc1-3_amd64.deb".into(),
            size: 1234,
            sha256: Sha256(Digest::parse(&"ab".repeat(32)).expect("64 digits")),
        };
        Lock {
            recipe: "hello".into(),
            asked: Asked { suite: "trixie".into(), components: vec!["main".into()], packages: vec!["hello".into()], recommends: false },
            epoch: 1_763_716_544,
            indexes: vec![UsedIndex { suite: "trixie".into(), date: 1_763_716_544, inrelease: package.sha256, key: "ABCD".into() }],
            packages: BTreeMap::from([(Arch::Amd64, BTreeMap::from([("hello".into(), package)])), (Arch::Arm64, BTreeMap::new())]),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = write(&sample());
        assert_eq!(parse(&text, Path::new("x.lock")).expect("own text"), sample());
        assert_eq!(write(&parse(&text, Path::new("x.lock")).expect("own text")), text);
    }

    #[test]
    fn wrong_locks_are_refused() {
        let good = write(&sample());
        for (from, to, expect) in [
            ("version = 1\n", "version = 9\n", "x.lock: lock version 9 is not known to this silo, which reads version 1"),
            (
                "pool/updates",
                "../updates",
                "x.lock: package hello: \"../updates/main/h/hello/hello_2.0~rc1-3_amd64.deb\" is not a path below an archive",
            ),
            (
                "pool/updates",
                "https://example.com/updates",
                "x.lock: package hello: \"https://example.com/updates/main/h/hello/hello_2.0~rc1-3_amd64.deb\" is not a path below an archive",
            ),
        ] {
            let error = parse(&good.replacen(from, to, 1), Path::new("x.lock")).expect_err(to);
            assert_eq!(error.to_string(), expect);
        }
        let error = parse(&good.replacen("abab", "XYab", 1), Path::new("x.lock")).expect_err("no digest");
        assert!(error.to_string().contains("is not a sha-256"), "{error}");
    }
}
