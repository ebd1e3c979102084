//! Add-ons: `silo add <name>` adds one to a tool, such as another language (`recipes/addons/<name>.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document;

use super::Step;
use super::catalog::{self, Error, RecipeSources};
use super::steps::StepEntry;

/// Directory of add-ons among recipes.
pub const DIR: &str = "addons";

/// Built-in add-ons: name and text.
pub const BUILT_IN: &[(&str, &str)] = catalog::ADDONS;

/// An add-on file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AddonFile {
    /// Description in one line.
    #[serde(default)]
    pub description: String,
    /// Debian packages, resolved together with the tool's.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Commands run after the tool's own.
    #[serde(default)]
    pub steps: Vec<StepEntry>,
    /// Commands that it adds to the tool: `name`, or `name:program and arguments`.
    #[serde(default)]
    pub shims: Vec<String>,
    /// Environment variables set inside.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// A checked add-on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addon {
    /// Description in one line.
    pub description: String,
    /// Debian packages.
    pub packages: Vec<String>,
    /// Commands of the tool's build.
    pub steps: Vec<Step>,
    /// Commands that it adds to the tool, by typed name.
    pub shims: BTreeMap<String, Vec<String>>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}

/// Finds the add-on `name`: the project's, else the user's, else the built-in one.
pub fn find(places: &RecipeSources, name: &str) -> Result<Option<Addon>, Error> {
    if super::check::check_name(name).is_err() {
        return Ok(None);
    }
    if let Some((_, path, text)) = catalog::documents(places, &format!("{DIR}/{name}.toml"))?.pop() {
        return checked(document::parse(&text, &path)?, &path).map(Some);
    }
    let Some((_, text)) = BUILT_IN.iter().find(|(builtin, _)| *builtin == name) else { return Ok(None) };
    let path = PathBuf::from(format!("recipes/{DIR}/{name}.toml"));
    checked(document::parse(text, &path)?, &path).map(Some)
}

/// Returns the names of all add-ons.
pub fn names(places: &RecipeSources) -> Result<BTreeSet<String>, Error> {
    let mut names: BTreeSet<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend(catalog::names_below(places, &format!("{DIR}/"))?);
    Ok(names)
}

fn checked(file: AddonFile, path: &Path) -> Result<Addon, Error> {
    let wrong = |source| Error::Recipe { path: path.to_owned(), source };
    super::check::check_packages("packages", &file.packages).map_err(wrong)?;
    super::check::check_variables("env", file.env.keys()).map_err(wrong)?;
    let steps = file.steps.into_iter().map(|step| super::steps::check_step("steps", step)).collect::<Result<_, _>>().map_err(wrong)?;
    let shims = file.shims.iter().map(|shim| super::check::check_shim(shim)).collect::<Result<_, _>>().map_err(wrong)?;
    Ok(Addon { description: file.description, packages: file.packages, steps, shims, env: file.env })
}
