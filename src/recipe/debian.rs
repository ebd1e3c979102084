//! The packages of a recipe's root, as they are written and checked.

use schemars::JsonSchema;
use serde::Deserialize;

use super::file::{Error, check_packages, sorted};
use super::{Debian, wanted};

/// A root made of Debian packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DebianTable {
    /// The release's codename; by default `trixie`.
    pub suite: Option<String>,
    /// The archive's areas; by default `main` alone.
    pub components: Option<Vec<String>>,
    /// Packages wanted besides the essential ones: `name`, `name=version`, or either with ` [architecture]`.
    pub packages: Option<Vec<String>>,
    /// Packages that are in the root while the steps run and not in the image, such as compilers; written as in `packages`.
    pub build_packages: Option<Vec<String>>,
    /// Whether recommended packages come too; by default not.
    pub recommends: Option<bool>,
    /// The package whose version is the tool's; by default the first of `packages`.
    pub version_of: Option<String>,
}

/// Lays `over` over `under`, key by key.
pub fn merge(under: Option<DebianTable>, over: Option<DebianTable>) -> Option<DebianTable> {
    let (under, over) = match (under, over) {
        (Some(under), Some(over)) => (under, over),
        (under, over) => return over.or(under),
    };
    Some(DebianTable {
        suite: over.suite.or(under.suite),
        components: over.components.or(under.components),
        packages: over.packages.or(under.packages),
        build_packages: over.build_packages.or(under.build_packages),
        recommends: over.recommends.or(under.recommends),
        version_of: over.version_of.or(under.version_of),
    })
}

/// Checks the table and fills in what it leaves out; `has_steps` says whether anything can need packages of its own.
pub fn check(table: DebianTable, has_steps: bool) -> Result<Debian, Error> {
    let packages = table.packages.unwrap_or_default();
    check_packages("debian.packages", &packages)?;
    let build = table.build_packages.unwrap_or_default();
    check_packages("debian.buildPackages", &build)?;
    if !build.is_empty() && !has_steps {
        return Err(Error::NoSteps);
    }
    let version_of = table.version_of.or_else(|| packages.first().cloned()).unwrap_or_else(|| "base-files".to_owned());
    let debian = Debian {
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
        version_of: wanted::for_arch(&version_of).0.split('=').next().unwrap_or_default().to_owned(),
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
