//! Discards changes: removes them from the layer. A killed command has discarded some of them, and the same command discards the rest.

use silo_guard::git::dir_fd::mode_of;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, at};
use crate::release;
use crate::view::View;
use crate::weigh::Weighed;

/// Discards the whole layer, with that of the repository. Works for a layer that cannot be read, too.
pub fn all(view: &View) -> Result<(), Error> {
    for entry in fs::read_dir(view.session.upper()).map_err(at("list", view.session.upper()))? {
        let entry = entry.map_err(at("list", view.session.upper()))?;
        silo_store::removal::remove_tree(&entry.path())?;
    }
    repository(view)
}

/// Discards the changes of the repository's layer.
pub fn repository(view: &View) -> Result<(), Error> {
    // Only the holder of the review's lock uses the layer of the repository.
    Ok(silo_store::removal::remove_tree(&view.session.git())?)
}

/// Discards the chosen changes below the paths; returns their number.
pub fn some(view: &View, all: &[Weighed], chosen: &[usize], paths: &[PathBuf]) -> Result<usize, Error> {
    let outer: HashSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let below = |path: &PathBuf| path.ancestors().any(|dir| outer.contains(dir));
    // A new directory around a chosen path stays.
    let gone: Vec<PathBuf> = chosen.iter().map(|index| all[*index].change.path.clone()).filter(below).collect();
    for path in &gone {
        release::open_around(&view.upper, &view.project, view.base.as_ref(), path)?;
    }
    let mut last: Option<&PathBuf> = None;
    for path in &gone {
        if last.is_some_and(|outer| path.starts_with(outer)) {
            continue;
        }
        // Changes have the order of paths.
        let change = all.binary_search_by(|one| one.change.path.cmp(path)).ok().map(|index| &all[index].change);
        // A changed directory has other changes below, which are chosen too.
        let is_whole = change.is_some_and(|change| {
            crate::choose::makes_dir(change) || change.after.as_ref().is_none_or(|after| after.kind != silo_guard::git::dir_fd::Kind::Dir)
        });
        if is_whole {
            release::remove_whole(&view.upper, path)?;
            last = Some(path);
        } else if let (Ok(ours), Ok(host)) = (view.upper.dir(path), view.project.dir(path)) {
            let stat = host.own_stat().map_err(at("read", path))?;
            crate::copying::set_mode(&ours, mode_of(&stat)).map_err(at("change", path))?;
        }
    }
    release::remove(&view.upper, &view.project, &gone)?;
    Ok(gone.len())
}
