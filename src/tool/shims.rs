//! Makes and changes the shims of tools: made at the install, changed by the user, removed with the tool.
//!
//! The table and its launchers change under one lock, the flock on the directory of the launchers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::private;

use crate::shim::table::{self, Shim, Table, is_shim_name};
use crate::shim::{is_systems_own, launchers};
use silo_base::event::Event;
use silo_base::home::Home;
use silo_model::document;
use silo_model::recipe::catalog::{self, RecipeSources};

use super::definition::{self, Scope};
use super::projects;
use super::record;
use super::{Context, View};

/// Error of changing shims.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The definition of a tool cannot be read.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The records of projects cannot be read.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The records of tools cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The tool is neither installed nor synced, so it has no shims.
    #[error("{0} is neither installed nor used by a synced project")]
    NotHere(String),
    /// The text is not a valid shim.
    #[error("\"{0}\" is not a shim; write name, or name:program and arguments")]
    Spec(String),
    /// The name is that of silo itself.
    #[error("\"{0}\" is silo itself and cannot be a shim")]
    Itself(String),
    /// Another tool has the name.
    #[error("{name} is a shim of {owner} already")]
    Taken {
        /// The name.
        name: String,
        /// The other tool.
        owner: String,
    },
    /// The tool has no such shim.
    #[error("{tool} has no shim {name}")]
    NoSuch {
        /// The tool.
        tool: String,
        /// The name.
        name: String,
    },
}

/// A finished change of the table.
#[derive(Debug)]
pub struct TableChange<T> {
    /// Result of the change.
    pub done: T,
    /// Names whose launcher could not be made, because the user has another file there.
    pub foreign: BTreeSet<String>,
}

/// Changes the table and makes its launchers, which start `program`.
pub fn change<T>(home: &Home, program: &Path, change: impl FnOnce(&mut Table) -> Result<T, Error>) -> Result<TableChange<T>, Error> {
    private::make_dir(&home.bin())?;
    let _alone = lock_table(home)?;
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| PathError { doing, path, source }
    };
    let path = home.shims();
    let before = table::read(&path)?;
    let mut after = before.clone();
    let done = change(&mut after)?;
    if after != before {
        document::write(&path, &table::write(&after)).map_err(failed("write", &path))?;
    }
    let foreign = launchers::make(home, &after, program)?;
    Ok(TableChange { done, foreign })
}

/// Locks the table and the launchers; waits for other processes.
fn lock_table(home: &Home) -> Result<LockedFile, PathError> {
    let bin = home.bin();
    File::open(&bin).and_then(LockedFile::exclusive).map_err(|source| PathError { doing: "lock", path: bin, source })
}

/// Removes the temporary files of a killed command and returns their number.
pub fn sweep(home: &Home) -> Result<usize, PathError> {
    // A home without launchers has no directory to lock.
    if !home.bin().is_dir() {
        return launchers::unstage(home);
    }
    let _alone = lock_table(home)?;
    launchers::unstage(home)
}

/// Makes the shims of a newly installed tool, and pins it.
pub fn installed(context: &Context<'_>, tool: &str) -> Result<(), Error> {
    refresh(context, &[tool], Scope::Global, |_| true)
}

/// Makes the shims of a tool that was installed before.
pub fn installed_again(context: &Context<'_>, tool: &str) -> Result<(), Error> {
    refresh(context, &[tool], Scope::Global, |entry_is_new| entry_is_new)
}

/// Makes the shims of tools of a project, without pinning them.
pub fn synced(context: &Context<'_>, tools: &[&str]) -> Result<(), Error> {
    if tools.is_empty() {
        return Ok(());
    }
    refresh(context, tools, Scope::Project, |_| false)
}

fn refresh(context: &Context<'_>, tools: &[&str], scope: Scope, pins: impl Fn(bool) -> bool) -> Result<(), Error> {
    let names = |tool: &&str| -> Result<(BTreeSet<String>, BTreeSet<String>), Error> {
        let everywhere = names_of(context.view(), tool, Scope::Global)?;
        let here = if scope == Scope::Project { names_of(context.view(), tool, scope)? } else { BTreeSet::new() };
        Ok((here.difference(&everywhere).cloned().collect(), everywhere))
    };
    let commands: Vec<(BTreeSet<String>, BTreeSet<String>)> = tools.iter().map(names).collect::<Result<_, _>>()?;
    let changed = change(context.home, &context.found_as, |table| {
        let mut taken = Vec::new();
        for (tool, (local, names)) in tools.iter().zip(&commands) {
            let new = table.get(tool).is_none();
            let entry = table.entry(tool);
            entry.pinned |= pins(new);
            let fresh = update_shims(&mut entry.shims, names, local);
            if entry.pinned {
                taken.extend(fresh.into_iter().filter_map(|name| Some((keeper(table, &name, tool)?, name, (*tool).to_owned()))));
            }
        }
        Ok(taken)
    })?;
    let warn = |text: String| (context.sink)(Event::Warning { text });
    for (owner, name, tool) in changed.done {
        warn(format!("{name} stays a command of {owner}; `silo shim remove {owner} {name}` leaves it to {tool}"));
    }
    for name in changed.foreign {
        warn(format!("{} is a file of your own; it is left, and {name} has no shim", context.home.shim(&name).display()));
    }
    Ok(())
}

/// Returns another tool that is pinned and has the name.
fn keeper(table: &Table, name: &str, tool: &str) -> Option<String> {
    table.owners(name).find(|entry| entry.pinned).filter(|entry| entry.tool != tool).map(|entry| entry.tool.clone())
}

/// Updates a tool's shims to its current commands, everywhere and in the project, and returns the new ones of the former. Changes by the
/// user and shims of other projects stay.
fn update_shims(shims: &mut BTreeMap<String, Shim>, names: &BTreeSet<String>, local: &BTreeSet<String>) -> Vec<String> {
    shims.retain(|name, shim| names.contains(name) || local.contains(name) || matches!(shim, Shim::Alias(_) | Shim::Local));
    let is_new = |name: &&String| matches!(shims.get(*name), None | Some(Shim::Local));
    let fresh: Vec<String> = names.iter().filter(is_new).cloned().collect();
    shims.extend(fresh.iter().map(|name| (name.clone(), Shim::Recipe)));
    for name in local {
        shims.entry(name.clone()).or_insert(Shim::Local);
    }
    fresh
}

/// Returns the default shims of a tool: the commands of its recipe and of add-ons, and its own name.
///
/// A project's own recipes and add-ons give no shims: they come with the project, and only the user decides about commands on PATH.
fn names_of(view: View<'_>, tool: &str, scope: Scope) -> Result<BTreeSet<String>, Error> {
    let places = RecipeSources { project: None, ..view.places.clone() };
    match definition::of(View { places: &places, ..view }, tool, scope) {
        Ok(definition) => {
            let names = definition.found.recipe.run.shims.into_keys().chain([tool.to_owned()]);
            Ok(names.filter(|name| !is_systems_own(name)).collect())
        }
        Err(definition::Error::Recipe(catalog::Error::Unknown { .. }) | definition::Error::Addon { .. }) => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Removes the shims of tools that are neither installed nor used by a project, and unpins tools that are not installed.
pub fn remove_unused(home: &Home, program: &Path) -> Result<(), Error> {
    let installed: BTreeSet<String> = record::list(home)?.into_iter().map(|tool| tool.name).collect();
    let projects = projects::list(home)?.into_iter().filter(|project| !project.is_orphaned());
    let used: BTreeSet<String> = projects.flat_map(|project| project.tools.into_keys()).collect();
    change(home, program, |table| {
        table.tools.retain(|entry| installed.contains(&entry.tool) || used.contains(&entry.tool));
        for entry in &mut table.tools {
            entry.pinned &= installed.contains(&entry.tool);
            entry.shims.retain(|_, shim| *shim != Shim::Local || used.contains(&entry.tool));
        }
        Ok(())
    })
    .map(drop)
}

/// Whether a tool's commands start it everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// Everywhere.
    Pinned,
    /// In projects that use the tool.
    Unpinned,
}

/// Pins or unpins a tool; returns true if that is a change.
pub fn pin(home: &Home, program: &Path, tool: &str, pin: Pin) -> Result<bool, Error> {
    let pinned = pin == Pin::Pinned;
    let changed = change(home, program, |table| {
        table.get(tool).ok_or_else(|| Error::NotHere(tool.to_owned()))?;
        let entry = table.entry(tool);
        Ok(std::mem::replace(&mut entry.pinned, pinned) != pinned)
    })?;
    Ok(changed.done)
}

/// Adds the user's own shims to a tool; returns the new ones.
pub fn add(view: View<'_>, program: &Path, tool: &str, specs: &[String]) -> Result<TableChange<Vec<String>>, Error> {
    let specs: Vec<(String, Vec<String>)> = specs.iter().map(|spec| parse(spec)).collect::<Result<_, _>>()?;
    let of_recipe: BTreeSet<String> = match definition::of(view, tool, Scope::Project) {
        Ok(definition) => definition.found.recipe.run.shims.into_keys().collect(),
        // A tool without a recipe can still have aliases.
        Err(_) => BTreeSet::new(),
    };
    change(view.home, program, |table| {
        table.get(tool).ok_or_else(|| Error::NotHere(tool.to_owned()))?;
        let mut new = Vec::new();
        for (name, words) in &specs {
            if let Some(owner) = table.owners(name).find(|entry| entry.tool != tool) {
                return Err(Error::Taken { name: name.clone(), owner: owner.tool.clone() });
            }
            let plain = words.as_slice() == [name.clone()] && of_recipe.contains(name);
            let shim = if plain { Shim::Recipe } else { Shim::Alias(words.clone()) };
            let before = table.entry(tool).shims.insert(name.clone(), shim.clone());
            new.extend((before.as_ref() != Some(&shim)).then(|| name.clone()));
        }
        Ok(new)
    })
}

/// Removes shims of a tool.
pub fn remove(home: &Home, program: &Path, tool: &str, names: &[String]) -> Result<(), Error> {
    change(home, program, |table| {
        table.get(tool).ok_or_else(|| Error::NotHere(tool.to_owned()))?;
        for name in names {
            let shims = &mut table.entry(tool).shims;
            match shims.get(name) {
                // Remembered as hidden, or the next install would make it again.
                Some(Shim::Recipe | Shim::Local) => drop(shims.insert(name.clone(), Shim::Hidden)),
                Some(Shim::Alias(_)) => drop(shims.remove(name)),
                Some(Shim::Hidden) | None => return Err(Error::NoSuch { tool: tool.to_owned(), name: name.clone() }),
            }
        }
        Ok(())
    })
    .map(drop)
}

/// Parses `name`, or `name:program and arguments`.
fn parse(spec: &str) -> Result<(String, Vec<String>), Error> {
    let (name, words) = spec.split_once(':').unwrap_or((spec, spec));
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    if words.is_empty() || !is_shim_name(name) {
        return Err(Error::Spec(spec.to_owned()));
    }
    if name == silo_base::home::PROGRAM {
        return Err(Error::Itself(name.to_owned()));
    }
    Ok((name.to_owned(), words))
}

/// Makes missing launchers of the table.
pub fn renew(home: &Home, program: &Path) -> Result<(), Error> {
    change(home, program, |_| Ok(())).map(drop)
}

/// Rebuilds an invalid table from the installed tools, and makes its launchers.
pub fn rebuild_table(context: &Context<'_>) -> Result<BTreeSet<String>, Error> {
    if table::read(&context.home.shims()).is_err() {
        let broken = context.home.shims();
        let aside = broken.with_extension("broken");
        fs::rename(&broken, &aside).map_err(|source| PathError { doing: "put aside", path: broken, source })?;
        (context.sink)(Event::Note { text: format!("the table of shims was invalid and is now {}", aside.display()) });
    }
    for tool in record::list(context.home)? {
        installed_again(context, &tool.name)?;
    }
    remove_unused(context.home, &context.found_as)?;
    Ok(change(context.home, &context.found_as, |_| Ok(()))?.foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_are_parsed_and_refused() {
        assert_eq!(parse("ipython:python -m IPython").expect("right").1, ["python", "-m", "IPython"]);
        assert_eq!(parse("npm").expect("right"), ("npm".to_owned(), vec!["npm".to_owned()]));
        for (spec, expect) in [
            ("", "is not a shim"),
            (":x", "is not a shim"),
            ("x:", "is not a shim"),
            ("a/b", "is not a shim"),
            ("-x", "is not a shim"),
            ("silo", "is silo itself"),
        ] {
            let error = parse(spec).expect_err(spec).to_string();
            assert!(error.contains(expect), "{spec}: {error}");
        }
    }

    #[test]
    fn user_changes_survive_a_new_recipe() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut shims = BTreeMap::new();
        assert_eq!(update_shims(&mut shims, &names(&["pip", "python"]), &names(&["uv"])), ["pip", "python"]);
        shims.insert("pip".to_owned(), Shim::Hidden);
        shims.insert("ipython".to_owned(), Shim::Alias(vec!["x".to_owned()]));
        assert_eq!(update_shims(&mut shims, &names(&["pip", "pip3"]), &names(&["pip"])), ["pip3"]);
        let left: Vec<(&str, bool)> = shims.iter().map(|(name, shim)| (name.as_str(), *shim == Shim::Hidden)).collect();
        assert_eq!(left, [("ipython", false), ("pip", true), ("pip3", false), ("uv", false)]);
        assert_eq!(shims["uv"], Shim::Local);
    }
}
