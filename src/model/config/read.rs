//! Reads and checks a `silo.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::document;
use crate::oci::location;
use crate::recipe::check::{check_flaws, check_name, check_packages, check_variables};
use crate::recipe::steps::check_step;
use crate::recipe::versions::is_version;
use crate::recipe::{kept_dirs, lsp};
use silo_base::home::{LEGACY_CONFIG, PROJECT_CONFIG};
use silo_base::secret;
use silo_base::units;

use super::legacy::{self, SettingsOwner};
use super::mounts::is_exclude;
use super::project::ProjectFiles;
use super::{Network, Override, Secret, Settings};

/// Limit of excluded directories: each is two mounts of every run.
const MAX_EXCLUDES: usize = 64;
/// Limit of secrets, and of the hosts of one. Arbitrary.
const MAX_SECRETS: usize = 64;
/// Maximum length of a project id.
const MAX_PROJECT_ID_BYTES: usize = 64;

/// Reads a `silo.toml`; a missing file has default settings.
pub fn read(path: &Path) -> Result<Settings, document::Error> {
    match document::text_of(path)? {
        Some(text) => parse(&text, path),
        None => Ok(Settings::default()),
    }
}

/// Old settings that were read because there is no `silo.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacySettings {
    /// File.
    pub path: PathBuf,
    /// Dropped settings, with reasons.
    pub left: Vec<String>,
}

/// Reads a `silo.toml`, or the old format if there is none.
pub fn read_any(path: &Path, older: &Path, whose: SettingsOwner) -> Result<(Settings, Option<LegacySettings>), document::Error> {
    if let Some(text) = document::text_of(path)? {
        return Ok((parse(&text, path)?, None));
    }
    let Some(yaml) = document::text_of(older)? else { return Ok((Settings::default(), None)) };
    parse_older(&yaml, older, whose)
}

/// Parses a project's settings from files that were read before.
pub fn of_project(files: &ProjectFiles) -> Result<(Settings, Option<LegacySettings>), document::Error> {
    if let Some(text) = files.text(PROJECT_CONFIG)? {
        return Ok((parse(text, &files.root().join(PROJECT_CONFIG))?, None));
    }
    let Some(yaml) = files.text(LEGACY_CONFIG)? else { return Ok((Settings::default(), None)) };
    parse_older(yaml, &files.root().join(LEGACY_CONFIG), SettingsOwner::Project)
}

fn parse_older(yaml: &str, older: &Path, whose: SettingsOwner) -> Result<(Settings, Option<LegacySettings>), document::Error> {
    let taken = legacy::to_toml(yaml, older, whose)?;
    let settings = parse(&taken.text, older).map_err(|error| without_place(error, older))?;
    Ok((settings, Some(LegacySettings { path: older.to_owned(), left: taken.left })))
}

/// Removes the line from an error in a converted text, which no user wrote.
fn without_place(error: document::Error, path: &Path) -> document::Error {
    match error {
        document::Error::Syntax { message, hint, .. } => {
            document::Error::Meaning { path: path.to_owned(), message: format!("{message}{hint}") }
        }
        error => error,
    }
}

/// Parses the text of the `silo.toml` at `path`.
pub fn parse(text: &str, path: &Path) -> Result<Settings, document::Error> {
    let mut settings: Settings = document::parse(text, path)?;
    today(&mut settings).and_then(|()| check(&settings)).map_err(|message| document::Error::Meaning { path: path.to_owned(), message })?;
    Ok(settings)
}

/// Normalizes alternative spellings.
fn today(settings: &mut Settings) -> Result<(), String> {
    settings.network = std::mem::take(&mut settings.network).today();
    for over in settings.overrides.values_mut() {
        over.network = std::mem::take(&mut over.network).today();
    }
    for entry in &mut settings.tools {
        let Some((tool, version)) = entry.split_once('@') else { continue };
        let (tool, version) = (tool.to_owned(), version.to_owned());
        if !is_version(&version) {
            return Err(format!("tools: \"{version}\" of \"{entry}\" is not a version"));
        }
        let over = settings.overrides.entry(tool.clone()).or_default();
        if let Some(other) = over.version.as_ref().filter(|other| **other != version) {
            return Err(format!("tools has {entry}, but overrides.{tool}.version is {other}; remove one"));
        }
        over.version = Some(version);
        *entry = tool;
    }
    let rootfs = &settings.cache.rootfs;
    // No limit becomes a size and age beyond any real one.
    let size = rootfs.max_size_mb.map(|mib| if mib == 0 { "1000000G".to_owned() } else { format!("{mib}M") });
    let age = rootfs.max_age_days.map(|days| if days == 0 { "100000d".to_owned() } else { format!("{days}d") });
    settings.gc.max_size = settings.gc.max_size.take().or(size);
    settings.gc.max_age = settings.gc.max_age.take().or(age);
    Ok(())
}

fn check(settings: &Settings) -> Result<(), String> {
    let mirrors = &settings.mirrors;
    let bases = mirrors.debian.iter().chain(&mirrors.debian_security).chain(&mirrors.snapshot).chain(&mirrors.snapshot_security);
    for base in bases {
        if !["http://", "https://", "file://", "/"].iter().any(|start| base.starts_with(start)) {
            return Err(format!("mirrors: \"{base}\" is neither an http, https or file URL nor an absolute path"));
        }
    }
    check_variables("passEnv", settings.pass_env.iter()).map_err(|error| error.to_string())?;
    for tool in &settings.tools {
        check_name(tool).map_err(|error| format!("tools: {error}"))?;
    }
    for cache in &settings.caches {
        location::parse(&cache.location).map_err(|error| format!("caches: \"{}\": {error}", cache.location.escape_debug()))?;
    }
    if let Some(size) = &settings.gc.max_size {
        units::parse_size(size).map_err(|error| format!("gc.maxSize: {error}"))?;
    }
    if let Some(age) = &settings.gc.max_age {
        units::parse_age(age).map_err(|error| format!("gc.maxAge: {error}"))?;
    }
    if let Some(size) = &settings.build.max_step_size {
        units::parse_size(size).map_err(|error| format!("build.maxStepSize: {error}"))?;
    }
    check_secrets("", &settings.secrets)?;
    check_sight(settings)?;
    check_network(&settings.network).map_err(|error| error.to_string())?;
    for (name, grants) in &settings.ecosystems {
        let of = |error: crate::recipe::error::Error| format!("ecosystems.{name}: {error}");
        check_name(name).map_err(of)?;
        check_flaws("names", grants).map_err(of)?;
        if let Some(nested) = grants.iter().find(|grant| grant.ecosystem().is_some()) {
            return Err(format!("ecosystems.{name}: {nested} is not allowed here; list its hosts"));
        }
    }
    let limits = settings.limits;
    if [limits.memory_mb, limits.processes, limits.time_seconds, limits.network_mb].contains(&Some(0)) {
        return Err("limits: memoryMB, processes, timeSeconds and networkMB must not be zero".to_owned());
    }
    settings.overrides.iter().try_for_each(|(tool, over)| check_override(tool, over))
}

fn check_sight(settings: &Settings) -> Result<(), String> {
    if let Some(wrong) = settings.mount.exclude.iter().find(|path| !is_exclude(path)) {
        return Err(format!("mount.exclude: \"{wrong}\" is not a directory of the project; write it as node_modules or web/node_modules"));
    }
    if settings.mount.exclude.len() > MAX_EXCLUDES {
        return Err(format!("mount.exclude has more than {MAX_EXCLUDES} directories"));
    }
    settings.pass_files.iter().try_for_each(|file| file.check().map_err(|error| format!("passFiles: {error}")))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_id = |id: &str| id.len() <= MAX_PROJECT_ID_BYTES && id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(plain);
    match &settings.project_id {
        Some(id) if !is_id(id) => Err(format!("projectId: \"{id}\" is not a name of letters, digits, \"-\", \"_\" and \".\"")),
        _ => Ok(()),
    }
}

/// Checks the table `secrets`; `above` is the path to it.
fn check_secrets(above: &str, secrets: &BTreeMap<String, Secret>) -> Result<(), String> {
    check_variables("secrets", secrets.keys()).map_err(|error| format!("{above}{error}"))?;
    let key = format!("{above}secrets");
    if secrets.len() > MAX_SECRETS {
        return Err(format!("{key} has more than {MAX_SECRETS} secrets"));
    }
    for (name, secret) in secrets {
        if secret.hosts.is_empty() || secret.hosts.len() > MAX_SECRETS {
            return Err(format!("{key}.{name}.hosts has {} hosts; name 1 to {MAX_SECRETS}", secret.hosts.len()));
        }
        for host in &secret.hosts {
            let (_, port) = secret::host(host).map_err(|error| format!("{key}.{name}.hosts: {error}"))?;
            if port == 80 {
                return Err(format!("{key}.{name}.hosts: \"{host}\" is reached without encryption; a secret needs TLS"));
            }
        }
    }
    Ok(())
}

fn check_override(tool: &str, over: &Override) -> Result<(), String> {
    let of = |error: crate::recipe::error::Error| format!("overrides.{tool}: {error}");
    check_name(tool).map_err(of)?;
    check_packages("packages", &over.packages).map_err(of)?;
    for addon in &over.addons {
        check_name(addon).map_err(of)?;
    }
    for step in &over.post_install {
        check_step("postInstall", step.clone()).map_err(of)?;
    }
    if over.version.as_ref().is_some_and(|version| !is_version(version)) {
        let version = over.version.as_deref().unwrap_or_default();
        return Err(format!("overrides.{tool}.version: \"{version}\" is not a version"));
    }
    check_network(&over.network).map_err(of)?;
    check_variables("env", over.env.keys()).map_err(of)?;
    check_variables("passEnv", over.pass_env.iter()).map_err(of)?;
    check_secrets(&format!("overrides.{tool}."), &over.secrets)?;
    over.pass_files.iter().try_for_each(|file| file.check().map_err(|error| format!("overrides.{tool}.passFiles: {error}")))?;
    for (key, entries) in [("cache", &over.cache), ("state", &over.state)] {
        kept_dirs::check(key, entries.clone()).map_err(|error| format!("overrides.{tool}.{error}"))?;
    }
    if over.workdir.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
        return Err(format!("overrides.{tool}.workdir must be an absolute path"));
    }
    let mut hosts = BTreeSet::new();
    if let Some(twice) = over.ports.iter().flatten().find(|port| !hosts.insert(port.host)) {
        return Err(format!("overrides.{tool}.ports: port {} of this machine is forwarded to two ports inside", twice.host));
    }
    let limits = [over.cpus.map(u64::from), over.memory_mb, over.rootfs_size_mb, over.time_seconds, over.network_mb];
    if limits.contains(&Some(0)) {
        return Err(format!("overrides.{tool}: cpus, memoryMB, rootfsSizeMB, timeSeconds and networkMB must not be zero"));
    }
    if over.image.is_some() {
        return Err(format!(
            "overrides.{tool}.image is not allowed here: images belong in a recipe, as `silo install NAME --image` writes it"
        ));
    }
    over.lsp.clone().map(lsp::check).transpose().map_err(of)?;
    Ok(())
}

fn check_network(network: &Network) -> Result<(), crate::recipe::error::Error> {
    check_flaws("network.allow", &network.allow)?;
    check_flaws("network.installAllow", &network.install_allow)
}
