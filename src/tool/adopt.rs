//! Making a tool of somebody else's image: its recipe, with the image pinned and the programs in it as shims.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::entry::{Entry, Kind};
use silo_store::index::Index;
use silo_store::path_error::PathError;

use crate::document;
use crate::image;
use crate::recipe::catalog::{self, Origin};
use crate::system::Arch;

use super::Context;
use super::definition::{self, Scope};
use super::install::{self, Outcome};
use super::locking::{self, Resolving};
use super::shims;

/// Where programs are looked for.
const DIRS: [&[u8]; 6] = [b"usr/local/bin", b"usr/local/sbin", b"usr/bin", b"usr/sbin", b"bin", b"sbin"];

/// Programs that nearly every image has, and nobody installs an image for.
const EVERYDAY: &str = include_str!("everyday.txt");

/// Most programs that become shims by themselves: an image with more is a system, and its user names what is wanted.
const MAX_SHIMS: usize = 64;

/// Why an image could not become a tool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is a recipe of that name already.
    #[error("there is a recipe for {tool} already{}", .path.as_ref().map_or_else(String::new, |path| format!(": {}", path.display())))]
    Taken {
        /// The tool.
        tool: String,
        /// The recipe's file, where it has one.
        path: Option<PathBuf>,
    },
    /// The recipe could not be written.
    #[error(transparent)]
    File(#[from] PathError),
    /// The tool could not be installed.
    #[error(transparent)]
    Install(Box<install::Error>),
    /// What was installed cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
}

/// What is wanted of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The tool's name.
    pub name: String,
    /// The image.
    pub image: String,
    /// Its shims; none for those that are found in it.
    pub shims: Vec<String>,
    /// Commands for the shell, run in it once.
    pub steps: Vec<String>,
    /// What the tool may reach.
    pub network: Vec<String>,
    /// Processors that a run may use.
    pub cpus: Option<u32>,
    /// Memory that a run may use, in MiB.
    pub memory_mb: Option<u64>,
}

/// Writes a recipe for an image, and installs it; returns what was done and the shims. What fails leaves no recipe.
pub fn adopt(context: &Context<'_>, wish: &Wish) -> Result<(Outcome, Vec<String>), Error> {
    let path = context.home.recipes().join(format!("{}.toml", wish.name));
    let lock = path.with_extension("lock");
    if catalog::built_in(&wish.name).is_some() || path.exists() {
        return Err(Error::Taken { tool: wish.name.clone(), path: Some(path).filter(|path| path.exists()) });
    }
    let done = made(context, wish, &path);
    if done.is_err() {
        for file in [&path, &lock] {
            // It may not be there yet; the error that matters is told.
            drop(fs::remove_file(file));
        }
    }
    done
}

fn made(context: &Context<'_>, wish: &Wish, path: &Path) -> Result<(Outcome, Vec<String>), Error> {
    let put = |command: &[String], shims: &[String]| {
        document::write(path, &recipe(wish, command, shims)).map_err(|source| PathError { doing: "write", path: path.to_owned(), source })
    };
    put(&[], &wish.shims)?;
    let definition = definition::of(context.view(), &wish.name, Scope::Global).map_err(|error| failed(error.into()))?;
    debug_assert_eq!(definition.found.origin, Origin::User);
    let lock = locking::obtain(context, &definition, Resolving::Allowed).map_err(|error| failed(error.into()))?;
    let said = lock.images.get(&Arch::host()).map(|base| base.command.clone()).unwrap_or_default();
    let command = match wish.shims.first() {
        Some(shim) => shim.split_once(':').map_or(shim.as_str(), |(_, program)| program).split_whitespace().map(str::to_owned).collect(),
        None => said,
    };
    put(&command, &wish.shims)?;
    let outcome =
        install::install(context, &install::Wish { name: wish.name.clone(), version: None, resolving: Resolving::Allowed, anew: false })
            .map_err(failed)?;
    if !wish.shims.is_empty() {
        return Ok((outcome, wish.shims.clone()));
    }
    let place = image::index_path(context.home, outcome.tool.image);
    let wrong = |source| PathError { doing: "read", path: place.clone(), source };
    let index = fs::read(&place).and_then(|text| Index::parse(&text).map_err(io::Error::other)).map_err(wrong)?;
    let path = lock.images.get(&Arch::host()).and_then(|base| base.env.iter().find_map(|pair| pair.strip_prefix("PATH=")));
    let shims = programs(&index, path.unwrap_or_default());
    put(&command, &shims)?;
    // The install knew nothing of these yet.
    shims::installed(context, &wish.name, false).map_err(|error| failed(error.into()))?;
    Ok((outcome, shims))
}

fn failed(error: install::Error) -> Error {
    Error::Install(Box::new(error))
}

/// Finds the programs of an image in the usual directories and those of its `path`, but for those that nearly every image has.
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

/// Writes the recipe.
fn recipe(wish: &Wish, command: &[String], shims: &[String]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |items: &[String]| format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "));
    let mut text = format!("# Made by `silo install {} --image`; it is yours to change.\n", wish.name);
    text.push_str(&format!("description = {}\nimage = {}\n", quoted(&format!("The image {}", wish.image)), quoted(&wish.image)));
    for (key, items) in [("command", command), ("shims", shims), ("steps", &wish.steps)] {
        if !items.is_empty() {
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
        text.push_str(&format!("\n[network]\nallow = {}\n", list(&wish.network)));
    }
    text
}
