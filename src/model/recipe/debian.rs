//! The `[debian]` table of a recipe: parsing, merging and checks.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::{check_packages, sorted};
use super::error::Error;
use super::package_spec;
use super::source::{self, SourceTable};
use super::types::Debian;

/// A root file system of Debian packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DebianTable {
    /// Codename of the release; by default `trixie`. With the suffix `-backports`, packages come from its backports if available there.
    pub suite: Option<String>,
    /// Archive areas; by default only `main`.
    pub components: Option<Vec<String>>,
    /// Packages in addition to the essential ones: `name`, `name=version`, `name (>= version)`, `name/suite`, `name:i386` for a foreign
    /// architecture; each with an optional ` [architecture]` to limit it to one architecture.
    pub packages: Option<Vec<String>>,
    /// Packages that are present while the steps run but not in the image, such as compilers; written as in `packages`.
    pub build_packages: Option<Vec<String>>,
    /// Whether recommended packages are installed too; by default not.
    pub recommends: Option<bool>,
    /// Package whose version is the tool's version; by default the first of `packages`.
    pub version_of: Option<String>,
    /// Additional apt archives, each with its signing key.
    pub sources: Option<Vec<SourceTable>>,
    /// .deb files in the recipe's directory, such as `debs/tool_1.0_amd64.deb`; the lock pins their digests.
    pub debs: Option<Vec<String>>,
    /// Answers to questions of packages at configuration time, in the format of debconf-set-selections(1): `postfix
    /// postfix/main_mailer_type select Local only`.
    pub debconf: Option<Vec<String>>,
    /// Directory of the recipe that names `debs`.
    #[serde(skip)]
    #[schemars(skip)]
    pub debs_dir: Option<PathBuf>,
}

/// Reads the key files of a table, and records the recipe directory `dir` of its `debs`.
pub fn locate<E: From<Error>>(table: &mut DebianTable, dir: &Path, read: impl Fn(&str) -> Result<Option<String>, E>) -> Result<(), E> {
    table.debs_dir = table.debs.as_ref().map(|_| dir.to_owned());
    for source in table.sources.iter_mut().flatten() {
        let Some(file) = source.key_file.take() else { continue };
        let is_name = file.ends_with(".asc") && !file.contains(['/', '\\', '\0']) && !file.starts_with('.');
        if !is_name || source.key.is_some() {
            return Err(Error::KeyFile(file).into());
        }
        source.key = Some(read(&file)?.ok_or(Error::KeyFile(file))?);
    }
    Ok(())
}

/// Merges `over` into `under`, key by key.
pub fn merge(under: Option<DebianTable>, over: Option<DebianTable>) -> Option<DebianTable> {
    let (under, over) = match (under, over) {
        (Some(under), Some(over)) => (under, over),
        (under, over) => return over.or(under),
    };
    let debs_dir = if over.debs.is_some() { over.debs_dir } else { under.debs_dir };
    Some(DebianTable {
        suite: over.suite.or(under.suite),
        components: over.components.or(under.components),
        packages: over.packages.or(under.packages),
        build_packages: over.build_packages.or(under.build_packages),
        recommends: over.recommends.or(under.recommends),
        version_of: over.version_of.or(under.version_of),
        sources: over.sources.or(under.sources),
        debs: over.debs.or(under.debs),
        debconf: over.debconf.or(under.debconf),
        debs_dir,
    })
}

/// Checks the table and fills in defaults.
pub fn check(table: DebianTable) -> Result<Debian, Error> {
    let packages = table.packages.unwrap_or_default();
    check_packages("debian.packages", &packages)?;
    let build = table.build_packages.unwrap_or_default();
    check_packages("debian.buildPackages", &build)?;
    let version_of = table.version_of.or_else(|| packages.first().cloned()).unwrap_or_else(|| "base-files".to_owned());
    let mut sources = table.sources.unwrap_or_default().into_iter().map(source::check).collect::<Result<Vec<_>, _>>()?;
    sources.sort();
    sources.dedup();
    let dir = table.debs_dir.unwrap_or_default();
    let debs = sorted(table.debs.unwrap_or_default());
    let debian = Debian {
        sources,
        debs: debs.iter().map(|name| source::check_deb(name, &dir)).collect::<Result<_, _>>()?,
        answers: sorted(table.debconf.unwrap_or_default().into_iter().map(source::check_answer).collect::<Result<_, _>>()?),
        suite: word("debian.suite", table.suite.unwrap_or_else(|| "trixie".to_owned()))?,
        components: sorted(
            table
                .components
                .unwrap_or_else(|| vec!["main".to_owned()])
                .into_iter()
                .map(|component| word("debian.components", component))
                .collect::<Result<_, _>>()?,
        ),
        build: sorted(build.into_iter().filter(|package| !packages.contains(package)).collect()),
        packages: sorted(packages),
        added: Vec::new(),
        recommends: table.recommends.unwrap_or(false),
        version_of: package_spec::name(&version_of).to_owned(),
    };
    if debian.components.is_empty() {
        return Err(Error::Empty("debian.components"));
    }
    Ok(debian)
}

fn word(key: &'static str, value: String) -> Result<String, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if value.starts_with(|c: char| c.is_ascii_alphanumeric()) && value.chars().all(plain) && !value.contains("..") {
        Ok(value)
    } else {
        Err(Error::Word { key, value })
    }
}
