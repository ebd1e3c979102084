//! Collecting what no installed tool needs: images, layers, downloads, and the leftovers of killed commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use silo_store::digest::Digest;
use silo_store::gc;
use silo_store::lock;
use silo_store::roots::Root;

use crate::image::{self, ImageId};

use super::Context;

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store refused.
    #[error("the layer store refused to collect")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file could not be listed or removed.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something is running.
    #[error("silo is running or building something, and what it uses is not collected")]
    Busy,
}

/// What to collect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Younger things are kept.
    pub min_age: Duration,
    /// Whether fetched files go too.
    pub downloads: bool,
    /// Whether to say what would go, and remove nothing.
    pub dry_run: bool,
}

/// What was, or would be, collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: usize,
    /// Images.
    pub images: usize,
    /// Fetched files.
    pub downloads: usize,
    /// Leftovers of killed commands.
    pub leftovers: usize,
    /// Bytes freed, as far as they are counted.
    pub bytes: u64,
}

/// Collects.
pub fn collect(context: &Context<'_>, wish: &Wish) -> Result<Collected, Error> {
    let store = |source: Box<dyn std::error::Error + Send + Sync>| Error::Store(source);
    let exclusive = lock::try_exclude(context.store).map_err(|error| store(Box::new(error)))?.ok_or(Error::Busy)?;
    // Whole seconds, rounded up: what was made in this very second is not younger than now.
    let now = UNIX_EPOCH + Duration::from_secs(u64::try_from(context.now).unwrap_or(0).saturating_add(1));
    let plan = gc::plan(context.store, &exclusive, &Root::default(), now, wish.min_age).map_err(|error| store(Box::new(error)))?;
    let mut collected = Collected { layers: plan.layers.len(), images: plan.images.len(), bytes: plan.bytes, ..Collected::default() };
    if !wish.dry_run {
        let swept = gc::sweep(context.store, &exclusive, &plan).map_err(|error| store(Box::new(error)))?;
        collected.leftovers = swept.stages.len();
    }
    // Nobody builds while the lock is ours, so all of this is left over.
    for path in listed(&context.home.work())? {
        collected.leftovers += 1;
        if !wish.dry_run {
            removed(&path)?;
        }
    }
    forget_images(context, &plan, wish)?;
    forget_logs(context, now, wish)?;
    if wish.downloads {
        for path in listed(&context.home.downloads())? {
            collected.downloads += 1;
            collected.bytes += fs::symlink_metadata(&path).map_or(0, |meta| if meta.is_file() { meta.len() } else { 0 });
            if !wish.dry_run {
                removed(&path)?;
            }
        }
    }
    Ok(collected)
}

/// Removes the notes of which derivation made an image that is gone, and what is no whole note.
fn forget_images(context: &Context<'_>, plan: &gc::Plan, wish: &Wish) -> Result<(), Error> {
    let gone: BTreeSet<Digest> = plan.images.iter().copied().collect();
    let here = image::list(context.home).map_err(|error| Error::Store(Box::new(error)))?;
    for path in listed(&context.home.made())? {
        let text = fs::read_to_string(&path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?;
        let is_note = path.extension().is_none();
        let useful = is_note && ImageId::parse(text.trim()).is_some_and(|id| here.contains(&id) && !gone.contains(&id.digest()));
        if !useful && !wish.dry_run {
            removed(&path)?;
        }
    }
    Ok(())
}

/// Removes the logs of steps that are old enough; a step that fails is run and logged anew.
fn forget_logs(context: &Context<'_>, now: SystemTime, wish: &Wish) -> Result<(), Error> {
    for path in listed(&context.home.logs())? {
        let changed = fs::metadata(&path).and_then(|meta| meta.modified());
        let changed = changed.map_err(|source| Error::File { doing: "inspect", path: path.clone(), source })?;
        if now.duration_since(changed).is_ok_and(|age| age >= wish.min_age) && !wish.dry_run {
            removed(&path)?;
        }
    }
    Ok(())
}

fn removed(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        silo_store::scratch::remove_tree(path).map_err(|error| Error::Store(Box::new(error)))
    } else {
        fs::remove_file(path).map_err(|source| Error::File { doing: "remove", path: path.to_owned(), source })
    }
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { doing: "list", path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(listing) => listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}
