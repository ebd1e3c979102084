//! Locks: the exact inputs of a tool, for every architecture, with digests and sizes.
//!
//! A lock file has one lock for each tool: a recipe's (`recipes/<tool>.lock`) has that of its tool, a project's (`silo.lock`) those of its
//! tools. A tool's language server has its own lock beside the tool's, under the name from [`server`].
//!
//! A lock is data only; `resolve` makes it and `fetch` follows it. Our own code writes it, sorted and with one line per package, so that
//! concurrent changes merge and an update changes only the lines that differ. It has pool paths and digests, never hosts. `docs/lock.md`
//! describes the format.

mod text;

pub mod base;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::document;
use crate::recipe::AptSource;
use crate::recipe::Recipe;
use crate::recipe::source;
use silo_base::system::Arch;
use silo_base::timestamp;

use base::Base;
use text::{key, list, push, quoted};

pub use text::Sha256;

/// The version of the format that this program reads and writes.
pub const VERSION: u32 = 2;

/// The exact inputs of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The request for this lock; a recipe with another request needs another lock.
    pub asked: PackageRequest,
    /// The date of the newest index, in seconds since 1970: the build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// The signed indexes that were used.
    pub indexes: Vec<UsedIndex>,
    /// The packages by architecture and name.
    pub packages: BTreeMap<Arch, BTreeMap<String, Package>>,
    /// The base image of the tool instead of packages, by architecture.
    pub images: BTreeMap<Arch, Base>,
    /// The outputs of steps with a network, by architecture and derivation.
    pub steps: BTreeMap<Arch, BTreeMap<Sha256, StepOutput>>,
    /// The layers of all other steps, by architecture and derivation, as a system with real owners made them.
    pub layers: BTreeMap<Arch, BTreeMap<Sha256, Sha256>>,
    /// Secrets and identities that the image lacks, by architecture and path.
    pub secrets: BTreeMap<Arch, BTreeMap<String, Secret>>,
}

impl Lock {
    /// Returns the packages of an architecture, if the lock has any.
    pub fn packages_of(&self, arch: Arch) -> Option<&BTreeMap<String, Package>> {
        self.packages.get(&arch).filter(|packages| !packages.is_empty())
    }
}

/// The output of a step with a network at the time of the lock: a rebuild must give the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepOutput {
    /// The layer.
    pub layer: Sha256,
    /// The sum of its file sizes.
    pub size: u64,
    /// The command, for people who read the lock.
    pub command: String,
    /// The digest of the list of the responses that it got from the network.
    #[serde(default)]
    pub record: Option<Sha256>,
}

/// A secret or identity that packages generate and the image lacks, for people who read the lock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Secret {
    /// The package that generates it, if it is a known secret.
    #[serde(default)]
    pub package: Option<String>,
    /// True if each sandbox gets a new one at its start.
    pub made_at_start: bool,
}

/// The part of a recipe that determines the packages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageRequest {
    /// The codename of the release.
    pub suite: String,
    /// The components of the archive.
    pub components: Vec<String>,
    /// The requested packages.
    pub packages: Vec<String>,
    /// Packages in addition to the recipe's own, for example of a project.
    #[serde(default)]
    pub added: Vec<String>,
    /// Packages that are needed while steps run.
    #[serde(default)]
    pub build: Vec<String>,
    /// Install recommended packages too.
    pub recommends: bool,
    /// The requested image instead of packages.
    #[serde(default)]
    pub image: Option<String>,
    /// Other apt archives, one per line: address, suite, components, and the digest of the key.
    #[serde(default)]
    pub sources: Vec<String>,
    /// The .deb files beside the recipe.
    #[serde(default)]
    pub debs: Vec<String>,
    /// The answers to debconf's questions.
    #[serde(default)]
    pub debconf: Vec<String>,
}

impl PackageRequest {
    /// Copies the values that determine the packages or the image from a recipe.
    pub fn by(recipe: &Recipe) -> PackageRequest {
        let debian = &recipe.debian;
        PackageRequest {
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

/// Origin of a package in a lock. Packages are configured tier by tier, so that packages of a later tier do not change the layers of the
/// earlier ones, and all tools of a release share the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageTier {
    /// Essential, or needed by an essential package.
    Base,
    /// Requested by the recipe, or needed by such a package.
    Recipe,
    /// Added to the recipe's own packages.
    Added,
    /// Present while steps run, but not in the image.
    Build,
}

impl PackageTier {
    /// Every tier, in configuration order.
    pub const ALL: [PackageTier; 4] = [PackageTier::Base, PackageTier::Recipe, PackageTier::Added, PackageTier::Build];

    /// Returns the name in locks and messages.
    pub fn name(self) -> &'static str {
        match self {
            PackageTier::Base => "base",
            PackageTier::Recipe => "recipe",
            PackageTier::Added => "added",
            PackageTier::Build => "build",
        }
    }
}

/// A signed index that was used to make a lock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedIndex {
    /// Its suite, such as `trixie-security`.
    pub suite: String,
    /// Its date, in seconds since 1970.
    pub date: i64,
    /// The digest of its InRelease file.
    pub inrelease: Sha256,
    /// The fingerprint of the signing key.
    pub key: String,
    /// The address of its archive, if it is one of the recipe's own sources.
    #[serde(default)]
    pub archive: Option<String>,
}

/// The archive of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Archive {
    /// The main archive.
    Main,
    /// The archive of security updates.
    Security,
    /// Another archive from the recipe, by its address.
    Source(String),
    /// No archive: the file is beside the recipe.
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
            _ => Err(format!("\"{text}\" is not an archive: expected main, security, local or the address of a source")),
        }
    }
}

/// One exact package.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its version.
    pub version: String,
    /// Its tier.
    pub tier: PackageTier,
    /// Its archive.
    pub archive: Archive,
    /// Its path below the archive's root.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256,
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
    asked: PackageRequest,
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
    #[serde(default)]
    layers: BTreeMap<Arch, BTreeMap<Sha256, Sha256>>,
    #[serde(default)]
    secrets: BTreeMap<Arch, BTreeMap<String, Secret>>,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Returns the name of the lock of a tool's language server; no tool can have such a name.
pub fn server(tool: &str) -> String {
    format!("{tool}{SERVER}")
}

/// Returns the tool of a lock: that of a language server is its tool's.
pub fn without_server(name: &str) -> &str {
    name.strip_suffix(SERVER).unwrap_or(name)
}

/// The end of the name of a language server's lock.
const SERVER: &str = ".lsp";

/// Returns the tools of a lock file by its headings alone, without parsing it.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    let headings = text.lines().filter_map(|line| line.strip_prefix("[tool.")?.strip_suffix(']'));
    headings.filter(|name| !name.contains(['.', '@']))
}

/// Parses the text of the lock file `path`.
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
        format!("lock version {version} is not supported, this silo reads version {VERSION}; run `silo lock --update` to make it again");
    Err(document::Error::Meaning { path: path.to_owned(), message })
}

fn checked(body: Body, path: &Path) -> Result<Lock, document::Error> {
    let wrong = |message: String| document::Error::Meaning { path: path.to_owned(), message };
    let packages = BTreeMap::from([(Arch::Amd64, body.amd64), (Arch::Arm64, body.arm64)]);
    for (name, package) in packages.values().flatten() {
        if !is_pool_path(&package.path) {
            return Err(wrong(format!("package {name}: \"{}\" is not a path below an archive", package.path)));
        }
        // A lock alone cannot send a download anywhere: the recipe must name the archive and the file.
        let is_asked = match &package.archive {
            Archive::Main | Archive::Security => true,
            Archive::Source(uri) => body.asked.sources.iter().any(|line| source::uri_of(line) == uri),
            Archive::Local => body.asked.debs.contains(&package.path),
        };
        if !is_asked {
            return Err(wrong(format!("package {name}: {} {} is not listed under `asked`", package.archive.name(), package.path)));
        }
    }
    Ok(Lock {
        asked: body.asked,
        epoch: body.epoch,
        indexes: body.index,
        packages,
        images: body.image,
        steps: body.steps,
        layers: body.layers,
        secrets: body.secrets,
    })
}

/// Checks that a path appended to a mirror's URL stays below it.
fn is_pool_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~%:".contains(c);
    path.len() <= 1024 && path.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain))
}

/// Writes a lock file.
pub fn write(locks: &BTreeMap<String, Lock>) -> String {
    let mut text = format!("# Made by `silo lock`: the exact inputs of each tool. Check it in; do not edit it.\nversion = {VERSION}\n");
    for (tool, lock) in locks {
        let tool = table_key(tool);
        push(&mut text, format_args!("\n[tool.{tool}]\n"));
        write_body(&mut text, &format!("tool.{tool}."), lock);
    }
    text
}

/// Writes the name of a lock as a part of a table's heading.
fn table_key(name: &str) -> String {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// Returns the part of a lock file of this program with one lock, without parsing the others.
pub fn part(text: &str, name: &str) -> Option<String> {
    let key = table_key(name);
    let (heading, prefix) = (format!("[tool.{key}]"), format!("[tool.{key}."));
    let mut lines = text.lines().skip_while(|line| *line != heading);
    let first = lines.next()?;
    let rest = lines.take_while(|line| !line.starts_with("[tool.") || line.starts_with(&prefix));
    let body: Vec<&str> = std::iter::once(first).chain(rest).collect();
    Some(format!("version = {VERSION}\n{}\n", body.join("\n")))
}

/// Writes one lock; `prefix` precedes its tables' names.
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
    for UsedIndex { suite, date, inrelease, key: signer, archive } in &lock.indexes {
        push(text, format_args!("\n[[{prefix}index]]\nsuite = {}\ndate = {date}\n", quoted(suite)));
        push(text, format_args!("inrelease = \"{}\"\nkey = {}\n", inrelease.0, quoted(signer)));
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
        for (drv, StepOutput { layer, size, command, record }) in steps {
            let record = record.map_or_else(String::new, |record| format!(", record = \"{}\"", record.0));
            push(
                text,
                format_args!("\"{}\" = {{ layer = \"{}\", size = {size}, command = {}{record} }}\n", drv.0, layer.0, quoted(command)),
            );
        }
    }
    for (arch, layers) in lock.layers.iter().filter(|(_, layers)| !layers.is_empty()) {
        push(text, format_args!("\n[{prefix}layers.{arch}]\n"));
        for (drv, layer) in layers {
            push(text, format_args!("\"{}\" = \"{}\"\n", drv.0, layer.0));
        }
    }
    for (arch, secrets) in lock.secrets.iter().filter(|(_, secrets)| !secrets.is_empty()) {
        push(text, format_args!("\n[{prefix}secrets.{arch}]\n"));
        for (path, Secret { package, made_at_start }) in secrets {
            let package = package.as_ref().map_or_else(String::new, |package| format!("package = {}, ", quoted(package)));
            push(text, format_args!("{} = {{ {package}madeAtStart = {made_at_start} }}\n", key(path)));
        }
    }
}

/// Returns the moment for queries to the snapshot archive, as `YYYYMMDDTHHMMSSZ`.
///
/// The archive is copied a few times a day, so a package of an index may be missing from the last snapshot before the index's date. A day
/// later it is there, and later snapshots keep superseded files.
pub fn snapshot_time(epoch: i64) -> String {
    const DAY_SECS: i64 = 86_400;
    timestamp::compact(epoch.saturating_add(DAY_SECS))
}

#[cfg(test)]
mod tests {
    use silo_store::digest::Digest;

    use super::*;

    fn sample() -> Lock {
        let package = Package {
            version: "1:2.0~rc1-3".into(),
            tier: PackageTier::Added,
            archive: Archive::Security,
            path: "pool/updates/main/h/hello/hello_2.0~rc1-3_amd64.deb".into(),
            size: 1234,
            sha256: Sha256(Digest::parse(&"ab".repeat(32)).expect("64 digits")),
        };
        let source = |archive| Package { archive, ..package.clone() };
        let foreign = source(Archive::Source("https://packages.example.com/apt".into()));
        let local = Package { path: "debs/own_1.deb".into(), ..source(Archive::Local) };
        let output = StepOutput { layer: package.sha256, size: 7, command: "echo \"x\"\ny".into(), record: Some(package.sha256) };
        Lock {
            asked: PackageRequest {
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
            layers: BTreeMap::from([(Arch::Arm64, BTreeMap::from([(package.sha256, package.sha256)]))]),
            secrets: BTreeMap::from([(
                Arch::Amd64,
                BTreeMap::from([
                    ("/etc/own \"key\"\n".into(), Secret { package: None, made_at_start: false }),
                    ("/etc/munge/munge.key".into(), Secret { package: Some("munge".into()), made_at_start: true }),
                ]),
            )]),
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
    fn written_locks_are_read_back() {
        let text = write(&two());
        assert_eq!(parse(&text, Path::new("x.lock")).expect("own text"), two());
        assert_eq!(write(&parse(&text, Path::new("x.lock")).expect("own text")), text);
    }

    #[test]
    fn a_part_is_one_lock_of_the_file() {
        let names = ["a", "a-b", "a.lsp", "a@1.2", "b"];
        let text = write(&names.map(|name| (name.to_owned(), sample())).into());
        for name in names {
            let part = part(&text, name).expect("it is there");
            assert_eq!(parse(&part, Path::new("x.lock")).expect("own text"), BTreeMap::from([(name.to_owned(), sample())]), "{name}");
        }
        assert_eq!(part(&text, "a@1"), None);
    }

    #[test]
    fn wrong_locks_are_refused() {
        let good = write(&two());
        for (from, to, expect) in [
            (
                "sources = [\"https://packages.example.com/apt",
                "sources = [\"https://other.example.com/apt",
                "x.lock: package libc6:i386: https://packages.example.com/apt pool/updates/main/h/hello/hello_2.0~rc1-3_amd64.deb is not listed under `asked`",
            ),
            ("debs = [\"debs/own_1.deb\"]", "debs = []", "x.lock: package own: local debs/own_1.deb is not listed under `asked`"),
            (
                "version = 2\n",
                "version = 9\n",
                "x.lock: lock version 9 is not supported, this silo reads version 2; run `silo lock --update` to make it again",
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
