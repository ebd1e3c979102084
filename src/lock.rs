//! Locks: the exact inputs of a tool, for every architecture, with digests and sizes.
//!
//! A lock file holds one lock a tool: a recipe's (`recipes/<tool>.lock`) that of its tool, a project's (`silo.lock`) those of
//! its tools. A tool's language server has a lock of its own beside the tool's, under [`server`]'s name.
//!
//! A lock is data only; `resolve` makes it and `fetch` obeys it. It is written by our own code, one
//! line a package and sorted, so that two people's changes merge and making it again changes nothing
//! that did not change. It names pool paths and digests, never hosts. `docs/lock.md` is the format's page.

pub mod base;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;
use silo_store::digest::Digest;

use crate::document;
use crate::moment;
use crate::recipe::Recipe;
use crate::recipe::source::{self, AptSource};
use crate::system::Arch;

use base::Base;

/// The version of the format that this program reads and writes.
pub const VERSION: u32 = 2;

/// The exact inputs of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What was asked for; a recipe that asks for something else needs another lock.
    pub asked: Asked,
    /// Seconds since 1970 of the newest index used: the build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The signed indexes that were used.
    pub indexes: Vec<UsedIndex>,
    /// The packages by architecture and name.
    pub packages: BTreeMap<Arch, BTreeMap<String, Package>>,
    /// The image that the tool is made of instead, by architecture.
    pub images: BTreeMap<Arch, Base>,
    /// What steps with a network came to, by architecture and derivation.
    pub steps: BTreeMap<Arch, BTreeMap<Sha256, StepOutput>>,
}

impl Lock {
    /// Returns the packages of an architecture, where the lock has any.
    pub fn packages_of(&self, arch: Arch) -> Option<&BTreeMap<String, Package>> {
        self.packages.get(&arch).filter(|packages| !packages.is_empty())
    }
}

/// What a step with a network came to when the lock was made: a rebuild must give the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepOutput {
    /// The layer.
    pub layer: Sha256,
    /// The sum of its files' sizes.
    pub size: u64,
    /// The command, for people who read the lock.
    pub command: String,
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
    /// The packages wanted over the recipe's own, such as a project's.
    #[serde(default)]
    pub added: Vec<String>,
    /// The packages wanted while steps run.
    #[serde(default)]
    pub build: Vec<String>,
    /// Whether recommended packages come too.
    pub recommends: bool,
    /// The image that is wanted instead of packages.
    #[serde(default)]
    pub image: Option<String>,
    /// Other apt archives, a line each: address, suite, components, and the digest of the key.
    #[serde(default)]
    pub sources: Vec<String>,
    /// The .deb files beside the recipe.
    #[serde(default)]
    pub debs: Vec<String>,
    /// The answers to debconf's questions.
    #[serde(default)]
    pub debconf: Vec<String>,
}

impl Asked {
    /// Takes what decides the packages, or the image, out of a recipe.
    pub fn by(recipe: &Recipe) -> Asked {
        let debian = &recipe.debian;
        Asked {
            image: recipe.image.clone(),
            suite: debian.suite.clone(),
            components: debian.components.clone(),
            packages: debian.packages.clone(),
            added: debian.added.clone(),
            build: debian.build.clone(),
            recommends: debian.recommends,
            sources: debian.sources.iter().map(AptSource::line).collect(),
            debs: debian.debs.iter().map(|deb| deb.name.clone()).collect(),
            debconf: debian.answers.clone(),
        }
    }
}

/// Why a package is in a lock. Packages are configured tier by tier, so that what a later tier adds leaves the layers of
/// the earlier ones as they are, and every tool of a release shares its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Essential, or an essential one needs it.
    Base,
    /// The recipe wants it, or one that the recipe wants needs it.
    Recipe,
    /// It came over the recipe's own.
    Added,
    /// It is there while steps run, and not in the image.
    Build,
}

impl Tier {
    /// Every tier, in the order in which they are configured.
    pub const ALL: [Tier; 4] = [Tier::Base, Tier::Recipe, Tier::Added, Tier::Build];

    /// Returns the word for it in locks and messages.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Base => "base",
            Tier::Recipe => "recipe",
            Tier::Added => "added",
            Tier::Build => "build",
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
    /// The address of its archive, where that is one of the recipe's own sources.
    #[serde(default)]
    pub archive: Option<String>,
}

/// Which archive a package lies in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Archive {
    /// The main archive.
    Main,
    /// The archive of security updates.
    Security,
    /// Another archive, which the recipe names, by its address.
    Source(String),
    /// None: the file lies beside the recipe.
    Local,
}

impl Archive {
    fn name(&self) -> &str {
        match self {
            Archive::Main => "main",
            Archive::Security => "security",
            Archive::Source(uri) => uri,
            Archive::Local => "local",
        }
    }
}

impl TryFrom<String> for Archive {
    type Error = String;

    fn try_from(text: String) -> Result<Archive, String> {
        match text.as_str() {
            "main" => Ok(Archive::Main),
            "security" => Ok(Archive::Security),
            "local" => Ok(Archive::Local),
            uri if uri.contains(":/") => Ok(Archive::Source(text)),
            _ => Err(format!("\"{text}\" is no archive: expected main, security, local or the address of a source")),
        }
    }
}

/// One exact package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its version.
    pub version: String,
    /// Why it is here.
    pub tier: Tier,
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
    #[serde(default)]
    tool: BTreeMap<String, Body>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    epoch: i64,
    asked: Asked,
    #[serde(default)]
    index: Vec<UsedIndex>,
    #[serde(default)]
    amd64: BTreeMap<String, Package>,
    #[serde(default)]
    arm64: BTreeMap<String, Package>,
    #[serde(default)]
    image: BTreeMap<Arch, Base>,
    #[serde(default)]
    steps: BTreeMap<Arch, BTreeMap<Sha256, StepOutput>>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The name under which the lock of a tool's language server stands; no tool can have such a name.
pub fn server(tool: &str) -> String {
    format!("{tool}.lsp")
}

/// Names the tools of a lock file by its headings alone, for whoever must not take the time to read it.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    let headings = text.lines().filter_map(|line| line.strip_prefix("[tool.")?.strip_suffix(']'));
    headings.filter(|name| !name.contains('.'))
}

/// Parses the text of the lock file `path`: one lock a tool.
pub fn parse(text: &str, path: &Path) -> Result<BTreeMap<String, Lock>, document::Error> {
    check_version(text, path)?;
    let written: Written = document::parse(text, path)?;
    debug_assert_eq!(written.version, VERSION);
    written.tool.into_iter().map(|(tool, body)| Ok((tool, checked(body, path)?))).collect()
}

fn check_version(text: &str, path: &Path) -> Result<(), document::Error> {
    let version = document::parse::<Versioned>(text, path)?.version;
    if version == VERSION {
        return Ok(());
    }
    let message =
        format!("lock version {version} is not known to this silo, which reads version {VERSION}; `silo lock --update` makes it anew");
    Err(document::Error::Meaning { path: path.to_owned(), message })
}

fn checked(body: Body, path: &Path) -> Result<Lock, document::Error> {
    let wrong = |message: String| document::Error::Meaning { path: path.to_owned(), message };
    let packages = BTreeMap::from([(Arch::Amd64, body.amd64), (Arch::Arm64, body.arm64)]);
    for (name, package) in packages.values().flatten() {
        if !is_pool_path(&package.path) {
            return Err(wrong(format!("package {name}: \"{}\" is not a path below an archive", package.path)));
        }
        // A lock alone sends nobody anywhere: the recipe must have named the archive and the file.
        let is_asked = match &package.archive {
            Archive::Main | Archive::Security => true,
            Archive::Source(uri) => body.asked.sources.iter().any(|line| source::uri_of(line) == uri),
            Archive::Local => body.asked.debs.contains(&package.path),
        };
        if !is_asked {
            return Err(wrong(format!("package {name}: {} {} is not what was asked for", package.archive.name(), package.path)));
        }
    }
    Ok(Lock { asked: body.asked, epoch: body.epoch, indexes: body.index, packages, images: body.image, steps: body.steps })
}

/// A path that can be put behind a mirror's URL without leaving it.
fn is_pool_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~%:".contains(c);
    path.len() <= 1024 && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain))
}

/// Writes a lock file: one lock a tool.
pub fn write(locks: &BTreeMap<String, Lock>) -> String {
    let mut text = format!("# Made by `silo lock`: the exact inputs of each tool. Check it in; do not edit it.\nversion = {VERSION}\n");
    for (tool, lock) in locks {
        let key = if tool.contains('.') { quoted(tool) } else { tool.clone() };
        push(&mut text, format_args!("\n[tool.{key}]\n"));
        write_body(&mut text, &format!("tool.{key}."), lock);
    }
    text
}

/// Writes what a lock says, its tables' names behind `prefix`.
fn write_body(text: &mut String, prefix: &str, lock: &Lock) {
    push(text, format_args!("epoch = {}\n", lock.epoch));
    let asked = &lock.asked;
    push(text, format_args!("\n[{prefix}asked]\nsuite = {}\ncomponents = {}\n", quoted(&asked.suite), list(&asked.components)));
    push(text, format_args!("packages = {}\n", list(&asked.packages)));
    if !asked.added.is_empty() {
        push(text, format_args!("added = {}\n", list(&asked.added)));
    }
    if !asked.build.is_empty() {
        push(text, format_args!("build = {}\n", list(&asked.build)));
    }
    push(text, format_args!("recommends = {}\n", asked.recommends));
    if let Some(image) = &asked.image {
        push(text, format_args!("image = {}\n", quoted(image)));
    }
    for (key, lines) in [("sources", &asked.sources), ("debs", &asked.debs), ("debconf", &asked.debconf)] {
        if !lines.is_empty() {
            push(text, format_args!("{key} = {}\n", list(lines)));
        }
    }
    for UsedIndex { suite, date, inrelease, key, archive } in &lock.indexes {
        push(text, format_args!("\n[[{prefix}index]]\nsuite = {}\ndate = {date}\n", quoted(suite)));
        push(text, format_args!("inrelease = \"{}\"\nkey = {}\n", inrelease.0, quoted(key)));
        if let Some(archive) = archive {
            push(text, format_args!("archive = {}\n", quoted(archive)));
        }
    }
    for (arch, packages) in lock.packages.iter().filter(|(_, packages)| !packages.is_empty()) {
        push(text, format_args!("\n[{prefix}{arch}]\n"));
        for (name, package) in packages {
            let (version, path) = (quoted(&package.version), quoted(&package.path));
            let (tier, archive) = (package.tier.name(), quoted(package.archive.name()));
            push(text, format_args!("{} = {{ version = {version}, tier = \"{tier}\", archive = {archive}, ", quoted(name)));
            push(text, format_args!("path = {path}, size = {}, sha256 = \"{}\" }}\n", package.size, package.sha256.0));
        }
    }
    for (arch, image) in &lock.images {
        push(text, format_args!("\n[{prefix}image.{arch}]\n"));
        base::write(text, image);
    }
    for (arch, steps) in lock.steps.iter().filter(|(_, steps)| !steps.is_empty()) {
        push(text, format_args!("\n[{prefix}steps.{arch}]\n"));
        for (drv, StepOutput { layer, size, command }) in steps {
            push(text, format_args!("\"{}\" = {{ layer = \"{}\", size = {size}, command = {} }}\n", drv.0, layer.0, quoted(command)));
        }
    }
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
pub fn snapshot_time(epoch: i64) -> String {
    const DAY_SECS: i64 = 86_400;
    moment::compact(epoch.saturating_add(DAY_SECS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Lock {
        let package = Package {
            version: "1:2.0~rc1-3".into(),
            tier: Tier::Added,
            archive: Archive::Security,
            path: "pool/updates/main/h/hello/hello_2.0~rc1-3_amd64.deb".into(),
            size: 1234,
            sha256: Sha256(Digest::parse(&"ab".repeat(32)).expect("64 digits")),
        };
        let source = |archive| Package { archive, ..package.clone() };
        let foreign = source(Archive::Source("https://packages.example.com/apt".into()));
        let local = Package { path: "debs/own_1.deb".into(), ..source(Archive::Local) };
        let output = StepOutput { layer: package.sha256, size: 7, command: "echo \"x\"\ny".into() };
        Lock {
            asked: Asked {
                suite: "trixie".into(),
                components: vec!["main".into()],
                packages: vec!["hello".into()],
                added: vec!["jq".into()],
                build: vec!["gcc".into()],
                recommends: false,
                image: Some("registry.example.com/x:1".into()),
                sources: vec!["https://packages.example.com/apt stable main key debian".into()],
                debs: vec!["debs/own_1.deb".into()],
                debconf: vec!["a a/b select \"c\"".into()],
            },
            epoch: 1_763_716_544,
            indexes: vec![UsedIndex {
                suite: "trixie".into(),
                date: 1_763_716_544,
                inrelease: package.sha256,
                key: "ABCD".into(),
                archive: Some("https://packages.example.com/apt".into()),
            }],
            images: BTreeMap::from([(
                Arch::Arm64,
                Base {
                    manifest: package.sha256,
                    env: vec!["A=\"1\"".into()],
                    command: vec!["x".into()],
                    arguments: Some(vec!["-v".into()]),
                    layers: vec![base::BaseLayer { sha256: package.sha256, size: 3, diff: package.sha256 }],
                },
            )]),
            steps: BTreeMap::from([(Arch::Amd64, BTreeMap::from([(package.sha256, output)]))]),
            packages: BTreeMap::from([
                (Arch::Amd64, BTreeMap::from([("hello".into(), package), ("libc6:i386".into(), foreign), ("own".into(), local)])),
                (Arch::Arm64, BTreeMap::new()),
            ]),
        }
    }

    fn two() -> BTreeMap<String, Lock> {
        BTreeMap::from([("a-b".to_owned(), sample()), ("hello".to_owned(), sample())])
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = write(&two());
        assert_eq!(parse(&text, Path::new("x.lock")).expect("own text"), two());
        assert_eq!(write(&parse(&text, Path::new("x.lock")).expect("own text")), text);
    }

    #[test]
    fn wrong_locks_are_refused() {
        let good = write(&two());
        for (from, to, expect) in [
            (
                "sources = [\"https://packages.example.com/apt",
                "sources = [\"https://other.example.com/apt",
                "x.lock: package libc6:i386: https://packages.example.com/apt pool/updates/main/h/hello/hello_2.0~rc1-3_amd64.deb is not what was asked for",
            ),
            ("debs = [\"debs/own_1.deb\"]", "debs = []", "x.lock: package own: local debs/own_1.deb is not what was asked for"),
            (
                "version = 2\n",
                "version = 9\n",
                "x.lock: lock version 9 is not known to this silo, which reads version 2; `silo lock --update` makes it anew",
            ),
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
