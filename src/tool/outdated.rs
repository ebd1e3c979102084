//! Compares a tool's lock with today's package versions.

use silo_model::lock::Package;

use super::Context;
use super::definition::{self, Scope};
use super::install::Error;
use super::lock_files;

/// A package with a locked version that differs from the current one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The tool.
    pub tool: String,
    /// The package.
    pub package: String,
    /// Its locked version, if it is locked.
    pub locked: Option<String>,
    /// Today's version, if it is still needed.
    pub available: Option<String>,
}

impl Row {
    /// Returns the locked version for display.
    pub fn shown_locked(&self) -> &str {
        self.locked.as_deref().unwrap_or("not locked")
    }
}

/// Compares a tool's lock with a new one.
pub fn outdated(context: &Context<'_>, tool: &str, scope: Scope) -> Result<Vec<Row>, Error> {
    let global = (scope == Scope::Global).then(|| context.without_project());
    let context = global.as_ref().unwrap_or(context);
    let definition = definition::of(context.view(), tool, scope)?;
    let old = lock_files::existing(context.view(), &definition)?;
    let new = lock_files::resolve(context, &definition)?;
    let packages = |lock: &silo_model::lock::Lock| lock.packages_of(definition.arch).cloned().unwrap_or_default();
    let (old, new) = (old.as_ref().map(packages).unwrap_or_default(), packages(&new));
    let version = |package: Option<&Package>| package.map(|package| package.version.clone());
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let rows = names.into_iter().map(|name| Row {
        tool: tool.to_owned(),
        package: name.clone(),
        locked: version(old.get(name)),
        available: version(new.get(name)),
    });
    Ok(rows.filter(|row| row.locked != row.available).collect())
}
