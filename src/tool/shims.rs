//! Which shims a tool has: made with it, changed by the user, gone with it.
//!
//! The table and its launchers are changed under one lock, the directory of the launchers itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use silo_store::held::Held;
use silo_store::path_error::PathError;
use silo_store::private;

use crate::document;
use crate::event::Event;
use crate::home::Home;
use crate::recipe::catalog::{self, Places};
use crate::shim::table::{self, Shim, Table, is_shim_name};
use crate::shim::{is_systems_own, launchers};

use super::definition::{self, Scope};
use super::projects;
use super::record;
use super::{Context, View};

/// Why shims could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// What a tool is cannot be told.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// The records of projects cannot be read.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The records of tools cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The system refused.
    #[error(transparent)]
    File(#[from] PathError),
    /// A tool that is neither installed nor synced has no shims.
    #[error("{0} is neither installed nor used by a project that was synced")]
    NotHere(String),
    /// A text that is no shim.
    #[error("\"{0}\" is not a shim; write name, or name:program and arguments")]
    Spec(String),
    /// The name of the program itself.
    #[error("\"{0}\" is silo itself and cannot be a shim")]
    Itself(String),
    /// Another tool has the name.
    #[error("{name} is a shim of {owner} already")]
    Taken {
        /// The name.
        name: String,
        /// Whose it is.
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

/// A change of the table that was made.
#[derive(Debug)]
pub struct Changed<T> {
    /// What the change returned.
    pub done: T,
    /// Names whose place in the directory of the shims is taken by a file of the user's.
    pub foreign: BTreeSet<String>,
}

/// Changes the table, and makes the launchers that it asks for. They start `program`.
pub fn change<T>(home: &Home, program: &Path, change: impl FnOnce(&mut Table) -> Result<T, Error>) -> Result<Changed<T>, Error> {
    private::make_dir(&home.bin())?;
    let _alone = hold(home)?;
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
    Ok(Changed { done, foreign })
}

/// Waits until nobody else changes the table or the links.
fn hold(home: &Home) -> Result<Held, PathError> {
    let bin = home.bin();
    File::open(&bin).and_then(Held::exclusive).map_err(|source| PathError { doing: "lock", path: bin, source })
}

/// Removes a link to the program that a killed command has made and not put in its place; returns how many there were.
pub fn sweep(home: &Home) -> Result<usize, PathError> {
    // A home without shims has nobody who makes links.
    if !home.bin().is_dir() {
        return launchers::unstage(home);
    }
    let _alone = hold(home)?;
    launchers::unstage(home)
}

/// Gives an installed tool its shims; one that was not installed before is pinned.
pub fn installed(context: &Context<'_>, tool: &str, newly: bool) -> Result<(), Error> {
    refresh(context, &[tool], Scope::Global, |entry_is_new| newly || entry_is_new)
}

/// Gives tools that a project uses their shims; they are not pinned by that.
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
            let fresh = lay(&mut entry.shims, names, local);
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

/// The other tool that a name leads to, whoever else has it.
fn keeper(table: &Table, name: &str, tool: &str) -> Option<String> {
    table.owners(name).find(|entry| entry.pinned).filter(|entry| entry.tool != tool).map(|entry| entry.tool.clone())
}

/// Lays a tool's commands into its shims, those that it has everywhere and those that it has in a project only, and returns
/// those of the former that are new. What the user changed stays, and so do those of other projects.
fn lay(shims: &mut BTreeMap<String, Shim>, names: &BTreeSet<String>, local: &BTreeSet<String>) -> Vec<String> {
    shims.retain(|name, shim| names.contains(name) || local.contains(name) || matches!(shim, Shim::Alias(_) | Shim::Local));
    let is_new = |name: &&String| matches!(shims.get(*name), None | Some(Shim::Local));
    let fresh: Vec<String> = names.iter().filter(is_new).cloned().collect();
    shims.extend(fresh.iter().map(|name| (name.clone(), Shim::Recipe)));
    for name in local {
        shims.entry(name.clone()).or_insert(Shim::Local);
    }
    fresh
}

/// Returns the names that a tool gets shims for by itself: the commands of its recipe and of add-ons, and its own name.
///
/// A project's own recipes and add-ons add none: they came with the project, and what stands on the user's PATH is the
/// user's to say.
fn names_of(view: View<'_>, tool: &str, scope: Scope) -> Result<BTreeSet<String>, Error> {
    let places = Places { project: None, ..view.places.clone() };
    match definition::of(View { places: &places, ..view }, tool, scope) {
        Ok(definition) => {
            let names = definition.found.recipe.run.shims.into_keys().chain([tool.to_owned()]);
            Ok(names.filter(|name| !is_systems_own(name)).collect())
        }
        Err(definition::Error::Recipe(catalog::Error::Unknown { .. }) | definition::Error::Addon { .. }) => Ok(BTreeSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Takes the shims of tools away that are neither installed nor used by a project; what is used by projects alone is not
/// pinned any more.
pub fn settle(home: &Home, program: &Path) -> Result<(), Error> {
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

/// Pins a tool, or lets it be claimed by projects alone; returns whether that is new.
pub fn pin(home: &Home, program: &Path, tool: &str, pinned: bool) -> Result<bool, Error> {
    let changed = change(home, program, |table| {
        table.get(tool).ok_or_else(|| Error::NotHere(tool.to_owned()))?;
        let entry = table.entry(tool);
        Ok(std::mem::replace(&mut entry.pinned, pinned) != pinned)
    })?;
    Ok(changed.done)
}

/// Gives a tool shims of the user's own; returns those that are new.
pub fn add(view: View<'_>, program: &Path, tool: &str, specs: &[String]) -> Result<Changed<Vec<String>>, Error> {
    let specs: Vec<(String, Vec<String>)> = specs.iter().map(|spec| parse(spec)).collect::<Result<_, _>>()?;
    let of_recipe: BTreeSet<String> = match definition::of(view, tool, Scope::Project) {
        Ok(definition) => definition.found.recipe.run.shims.into_keys().collect(),
        // A tool whose recipe is gone has its aliases all the same.
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

/// Takes shims away from a tool.
pub fn remove(home: &Home, program: &Path, tool: &str, names: &[String]) -> Result<(), Error> {
    change(home, program, |table| {
        table.get(tool).ok_or_else(|| Error::NotHere(tool.to_owned()))?;
        for name in names {
            let shims = &mut table.entry(tool).shims;
            match shims.get(name) {
                // It is remembered, or the next install would make it again.
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
    if name == crate::home::PROGRAM {
        return Err(Error::Itself(name.to_owned()));
    }
    Ok((name.to_owned(), words))
}

/// Makes the launchers that the table asks for, where nobody else does so already.
pub fn renew(home: &Home, program: &Path) -> Result<(), Error> {
    change(home, program, |_| Ok(())).map(drop)
}

/// Makes the table anew where it cannot be read, from what is installed, and its launchers.
pub fn mend(context: &Context<'_>) -> Result<BTreeSet<String>, Error> {
    if table::read(&context.home.shims()).is_err() {
        let broken = context.home.shims();
        let aside = broken.with_extension("broken");
        fs::rename(&broken, &aside).map_err(|source| PathError { doing: "put aside", path: broken, source })?;
        (context.sink)(Event::Note { text: format!("the table of shims was not one; it is {} now", aside.display()) });
    }
    for tool in record::list(context.home)? {
        installed(context, &tool.name, false)?;
    }
    settle(context.home, &context.found_as)?;
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
    fn what_the_user_changed_outlives_a_new_recipe() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut shims = BTreeMap::new();
        assert_eq!(lay(&mut shims, &names(&["pip", "python"]), &names(&["uv"])), ["pip", "python"]);
        shims.insert("pip".to_owned(), Shim::Hidden);
        shims.insert("ipython".to_owned(), Shim::Alias(vec!["x".to_owned()]));
        assert_eq!(lay(&mut shims, &names(&["pip", "pip3"]), &names(&["pip"])), ["pip3"]);
        let left: Vec<(&str, bool)> = shims.iter().map(|(name, shim)| (name.as_str(), *shim == Shim::Hidden)).collect();
        assert_eq!(left, [("ipython", false), ("pip", true), ("pip3", false), ("uv", false)]);
        assert_eq!(shims["uv"], Shim::Local);
    }
}
