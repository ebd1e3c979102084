//! The versions of a recipe: its own, and others that differ in packages or image, steps and variables.
//!
//! Versions with the same Debian packages have one lock, which pins the steps of each version separately.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::check_variables;
use super::debian::{self, DebianTable};
use super::error::Error;
use super::steps::{StepEntry, check_step};
use super::types::{OtherVersion, Step};

/// Variable with the version to build, set for steps.
pub const VARIABLE: &str = "SILO_VERSION";

/// Differences of another version of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VersionTable {
    /// Short label for lists, such as `long-term support`.
    pub label: Option<String>,
    /// Debian suite and packages of this version, over the recipe's, key by key. Without steps of its own, the version is that of the
    /// package, and the key is a prefix of it.
    pub debian: Option<DebianTable>,
    /// Container image used as root file system of this version instead of Debian packages.
    pub image: Option<String>,
    /// Steps of this version; by default the recipe's.
    pub steps: Option<Vec<StepEntry>>,
    /// Variables in addition to the recipe's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl VersionTable {
    /// True if the version is that of a package; its key is a prefix of the version.
    pub fn is_packaged(&self) -> bool {
        self.debian.is_some() && self.image.is_none() && self.steps.is_none()
    }

    /// True if the version has a root of its own, and therefore a lock of its own or one that it shares with other versions.
    pub fn has_own_root(&self) -> bool {
        self.debian.is_some() || self.image.is_some()
    }
}

/// Returns the name of the lock of a version in the file of the recipe's locks: that of the first version with the same root.
pub fn lock_name(tool: &str, versions: &BTreeMap<String, VersionTable>, table: &VersionTable) -> String {
    let first = versions.iter().find(|(_, other)| other.has_own_root() && other.debian == table.debian && other.image == table.image);
    first.map_or_else(|| tool.to_owned(), |(version, _)| format!("{tool}@{version}"))
}

/// Describes the other versions of a tool for a checked recipe.
pub fn described(tool: &str, versions: BTreeMap<String, VersionTable>) -> BTreeMap<String, OtherVersion> {
    let described = |table: &VersionTable| OtherVersion {
        label: table.label.clone().unwrap_or_default(),
        is_packaged: table.is_packaged(),
        lock_name: if table.has_own_root() { lock_name(tool, &versions, table) } else { tool.to_owned() },
    };
    versions.iter().map(|(version, table)| (version.clone(), described(table))).collect()
}

/// True if a text can be a version or a version prefix.
pub fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-~_".contains(c);
    text.len() <= 100 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

/// True if `version` equals `wanted` or has it as prefix, part by part.
pub fn is_of(version: &str, wanted: &str) -> bool {
    version.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Sort key of a version: its numbers; other parts count as 0.
pub fn order(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
}

/// Checks the spelling of all versions, and the contents of the other versions.
pub fn check(own: &Option<String>, others: &BTreeMap<String, VersionTable>) -> Result<(), Error> {
    let wrong = |version: &&String| !is_version(version);
    if let Some(value) = own.iter().find(wrong) {
        return Err(Error::Version { key: "version", value: value.clone() });
    }
    if let Some(value) = others.keys().find(wrong) {
        return Err(Error::Version { key: "versions", value: value.clone() });
    }
    for table in others.values() {
        table.debian.clone().map_or(Ok(()), |debian| debian::check(debian).map(drop))?;
        check_variables("versions.env", table.env.keys())?;
        table.steps.iter().flatten().try_for_each(|step| check_step("versions.steps", step.clone()).map(drop))?;
    }
    Ok(())
}

/// Checks a recipe's steps, and sets the version variable for them.
pub fn check_steps(steps: Vec<StepEntry>, version: Option<&str>) -> Result<Vec<Step>, Error> {
    let mut steps: Vec<Step> = steps.into_iter().map(|step| check_step("steps", step)).collect::<Result<_, _>>()?;
    if let Some(version) = version {
        for step in &mut steps {
            step.env.entry(VARIABLE.to_owned()).or_insert_with(|| version.to_owned());
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_matched_part_by_part() {
        for (version, wanted, expect) in [
            ("3.13.5", "3.13", true),
            ("3.13.5", "3.13.5", true),
            ("3.13.5", "3", true),
            ("3.13.5", "3.1", false),
            ("3.13.5", "3.13.5.1", false),
            ("3.13.5", "", false),
        ] {
            assert_eq!(is_of(version, wanted), expect, "{version} {wanted}");
        }
    }
}
