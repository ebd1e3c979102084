//! Turns a third-party image into a tool: writes a recipe with the image, and its programs as shims.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::entry::{Entry, Kind};
use silo_store::flock as store_lock;
use silo_store::index::Index;
use silo_store::path_error::PathError;
use silo_store::private;

use crate::journal::Change;
use crate::shim::{launchers, table};
use silo_base::grant::Grant;
use silo_base::sanitize;
use silo_build::image;
use silo_model::document;
use silo_model::recipe::catalog::{self, Draft, RecipeSources};

use super::Context;
use super::definition::{self, Scope};
use super::install::{self, Outcome};
use super::lock_files::{self, Resolving};
use super::record;

/// Directories that are searched for programs.
const DIRS: [&[u8]; 6] = [b"usr/local/bin", b"usr/local/sbin", b"usr/bin", b"usr/sbin", b"bin", b"sbin"];

/// Programs that nearly every image has, and that are not the reason to install an image.
const EVERYDAY: &str = include_str!("everyday.txt");

/// Limit on the automatic shims. An image with more programs is a whole system; its user can name the wanted ones.
const MAX_SHIMS: usize = 64;

/// Error of turning an image into a tool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe of that name exists already.
    #[error("there is a recipe for {tool} already{}", .path.as_ref().map_or_else(String::new, |path| format!(": {}", path.display())))]
    Taken {
        /// The tool.
        tool: String,
        /// The recipe's file; `None` for a built-in recipe.
        path: Option<PathBuf>,
    },
    /// Writing the recipe failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// Installing the tool failed.
    #[error(transparent)]
    Install(Box<install::Error>),
    /// The installed image cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
}

impl Error {
    /// Returns the next step, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Taken { path: None, .. } => Some("it is built in; choose another name".to_owned()),
            Error::Taken { tool, path: Some(path) } => {
                let path = sanitize::path(path);
                Some(format!("`silo install {tool}` installs it; or choose another name, or remove {path} and its lock"))
            }
            _ => None,
        }
    }
}

/// Options of `silo install --image`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The tool's name.
    pub name: String,
    /// The image.
    pub image: String,
    /// Its shims; if empty, the programs found in the image.
    pub shims: Vec<String>,
    /// Shell commands that run once, as build steps.
    pub steps: Vec<String>,
    /// Allowed hosts of the tool.
    pub network: Vec<Grant>,
    /// Limit on the processors of a run.
    pub cpus: Option<u32>,
    /// Limit on the memory of a run, in MiB.
    pub memory_mb: Option<u64>,
}

/// Turns an image into a tool. Builds it with a draft recipe first; writes the recipe and records the tool only if that succeeds. Returns
/// the outcome and the shims.
pub fn adopt(context: &Context<'_>, wish: &ImportOptions) -> Result<(Outcome, Vec<String>), Error> {
    let context = &context.without_project();
    let path = context.home.recipes().join(format!("{}.toml", wish.name));
    let taken = || Error::Taken { tool: wish.name.clone(), path: Some(path.clone()).filter(|path| path.exists()) };
    if catalog::built_in(&wish.name).is_some() {
        return Err(taken());
    }
    match document::text_of(&path).map_err(|error| failed(definition::Error::from(error).into()))? {
        None => made(context, wish, &path),
        Some(text) => again(context, wish, &text).ok_or_else(taken)?,
    }
}

/// Resumes an install that was killed between writing the recipe and making the shims.
fn again(context: &Context<'_>, wish: &ImportOptions, text: &str) -> Option<Result<(Outcome, Vec<String>), Error>> {
    let there: toml::Table = text.parse().ok()?;
    let list = |key: &str| -> Vec<String> {
        let items = there.get(key).and_then(toml::Value::as_array);
        items.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect()
    };
    let (command, shims) = (list("command"), list("shims"));
    let arguments = there.contains_key("arguments").then(|| list("arguments"));
    let table = table::read(&context.home.shims()).ok()?;
    let linked = launchers::faults(context.home, &table, &context.found_as).is_ok_and(|faults| faults.is_empty());
    let has_shims = linked && table.get(&wish.name).is_some();
    let is_installed = matches!(record::get(context.home, &wish.name), Ok(Some(_)));
    if text != recipe(wish, (&command, arguments.as_deref()), &shims) || (is_installed && has_shims) {
        return None;
    }
    Some(install::install(context, &of_install(wish)).map(|outcome| (outcome, shims)).map_err(failed))
}

fn of_install(wish: &ImportOptions) -> install::InstallOptions {
    install::InstallOptions { name: wish.name.clone(), version: None, resolving: Resolving::Allowed, anew: false, with: Vec::new() }
}

fn made(context: &Context<'_>, wish: &ImportOptions, path: &Path) -> Result<(Outcome, Vec<String>), Error> {
    let draft = |command: (&[String], Option<&[String]>), shims: &[String]| {
        let draft = Draft { name: wish.name.clone(), text: recipe(wish, command, shims) };
        RecipeSources { draft: Some(draft), ..context.places.as_ref().clone() }
    };
    let of = |context: &Context<'_>| definition::of(context.view(), &wish.name, Scope::Global).map_err(|error| failed(error.into()));
    let shared = store_lock::share(context.store).map_err(|source| failed(install::Error::Store(Box::new(source))))?;
    let places = draft((&[], None), &wish.shims);
    let trying = context.among(&places);
    let lock = lock_files::obtain(&trying, &of(&trying)?, Resolving::Allowed).map_err(|error| failed(error.into()))?;
    let base = lock.images.get(&context.home.arch());
    let said = base.map(|base| base.command.clone()).unwrap_or_default();
    let search = base.and_then(|base| base.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).map(str::to_owned));
    let words = match wish.shims.first() {
        Some(shim) => shim.split_once(':').map_or(shim.as_str(), |(_, program)| program).split_whitespace().map(str::to_owned).collect(),
        None => said,
    };
    // With given shims, the base image's default arguments do not apply.
    let arguments = base.and_then(|base| base.arguments.clone()).filter(|_| wish.shims.is_empty());
    let command = (words.as_slice(), arguments.as_deref());
    let places = draft(command, &wish.shims);
    let trying = context.among(&places);
    let made = install::make(&trying, &shared, &of(&trying)?, lock, &of_install(wish)).map_err(failed)?;
    let shims = match wish.shims.is_empty() {
        false => wish.shims.clone(),
        true => {
            let place = image::index_path(context.home, made.built.image);
            let wrong = |source| PathError { doing: "read", path: place.clone(), source };
            let index = fs::read(&place).and_then(|text| Index::parse(&text).map_err(io::Error::other)).map_err(wrong)?;
            programs(&index, search.as_deref().unwrap_or_default())
        }
    };
    let places = draft(command, &shims);
    let trying = context.among(&places);
    private::make_dir(&context.home.recipes())?;
    let change = Change::new(context.home, path, None, Some(recipe(wish, command, &shims)))?;
    let outcome = install::record(&trying, &shared, &of(&trying)?, made, &[change]).map_err(failed)?;
    Ok((outcome, shims))
}

fn failed(error: install::Error) -> Error {
    Error::Install(Box::new(error))
}

/// Finds the programs of an image in the usual directories and those of its `path`, except programs that nearly every image has.
pub fn programs(index: &Index, path: &str) -> Vec<String> {
    let own = path.split(':').map(|dir| dir.trim_matches('/').as_bytes());
    let dirs: Vec<&[u8]> = DIRS.into_iter().chain(own).collect();
    let everyday: std::collections::BTreeSet<&str> = EVERYDAY.split_whitespace().collect();
    let mut found: Vec<String> =
        index.entries().iter().filter_map(|entry| program(entry, &dirs)).filter(|name| !everyday.contains(name.as_str())).collect();
    found.sort();
    found.dedup();
    found.truncate(MAX_SHIMS);
    found
}

fn program(entry: &Entry, dirs: &[&[u8]]) -> Option<String> {
    let (dir, name) = {
        let path = entry.path.as_bytes();
        let at = path.iter().rposition(|byte| *byte == b'/')?;
        (&path[..at], &path[at + 1..])
    };
    let kind = entry.node.kind();
    let runs = kind == Kind::Symlink || (matches!(kind, Kind::File | Kind::Hardlink) && entry.meta.mode & 0o111 != 0);
    let name = std::str::from_utf8(name).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    (runs && dirs.contains(&dir) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain))
        .then(|| name.to_owned())
}

/// Generates the recipe.
fn recipe(wish: &ImportOptions, (command, arguments): (&[String], Option<&[String]>), shims: &[String]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |items: &[String]| format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "));
    let mut text = format!("# Made by `silo install {} --image`; it is yours to change.\n", wish.name);
    text.push_str(&format!("description = {}\nimage = {}\n", quoted(&format!("The image {}", wish.image)), quoted(&wish.image)));
    for (key, items, is_said) in [
        ("command", command, !command.is_empty()),
        ("arguments", arguments.unwrap_or_default(), arguments.is_some()),
        ("shims", shims, !shims.is_empty()),
        ("steps", &wish.steps, !wish.steps.is_empty()),
    ] {
        if is_said {
            text.push_str(&format!("{key} = {}\n", list(items)));
        }
    }
    if let Some(cpus) = wish.cpus {
        text.push_str(&format!("cpus = {cpus}\n"));
    }
    if let Some(mib) = wish.memory_mb {
        text.push_str(&format!("memoryMB = {mib}\n"));
    }
    if !wish.network.is_empty() {
        text.push_str(&format!("\n[network]\nallow = {}\n", list(&wish.network.iter().map(Grant::to_string).collect::<Vec<_>>())));
    }
    text
}
