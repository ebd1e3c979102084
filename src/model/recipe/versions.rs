//! The versions of a recipe: its own, and others that differ in steps and variables.
//!
//! All versions have the same Debian packages and therefore one lock, which pins the steps of each version separately.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Step;
use super::file::{Error, RecipeFile, StepEntry, check_step, check_variables};

/// Variable with the version to build, set for steps.
pub const VARIABLE: &str = "SILO_VERSION";

/// Differences of another version of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VersionTable {
    /// Short label for lists, such as `long-term support`.
    pub label: Option<String>,
    /// Steps of this version; by default the recipe's.
    pub steps: Option<Vec<StepEntry>>,
    /// Variables in addition to the recipe's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Selects the newest version that matches the requested one or has it as prefix. If the recipe's own version matches, or none does, the
/// recipe stays unchanged.
pub fn choose(mut file: RecipeFile, wanted: &str) -> RecipeFile {
    if file.version.as_deref().is_some_and(|own| is_of(own, wanted)) {
        return file;
    }
    let matching = file.versions.iter().filter(|(version, _)| is_of(version, wanted));
    let Some((version, table)) = matching.max_by_key(|(version, _)| order(version)) else { return file };
    let (version, table) = (version.clone(), table.clone());
    file.version = Some(version);
    file.steps = table.steps.or(file.steps);
    file.env.extend(table.env);
    file
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

/// Sort key of a version: its numbers; other parts count as 0.
fn order(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0)).collect()
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

    #[test]
    fn the_newest_version_that_begins_so_is_taken() {
        let text = "version = \"3.1.0\"\nsteps = [\"a\"]\nenv = { A = \"1\" }\n[versions.\"2.10.0\"]\nenv = { A = \"2\" }\n[versions.\"2.9.1\"]\nsteps = [\"b\"]\n";
        let file: RecipeFile = toml::from_str(text).expect("a recipe");
        let step = |text: &str| Some(vec![StepEntry::Shell(text.to_owned())]);
        for (wanted, version, steps, variable) in
            [("2", "2.10.0", "a", "2"), ("2.9", "2.9.1", "b", "1"), ("3", "3.1.0", "a", "1"), ("4", "3.1.0", "a", "1")]
        {
            let chosen = choose(file.clone(), wanted);
            assert_eq!(chosen.version.as_deref(), Some(version), "{wanted}");
            assert_eq!((chosen.steps, chosen.env["A"].as_str()), (step(steps), variable), "{wanted}");
        }
    }
}
