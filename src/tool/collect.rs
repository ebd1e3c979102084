//! Garbage collection: removes unneeded images, layers and downloads, and leftovers of killed commands.
//!
//! The store's exclusive lock is held only for short moments. Unneeded objects are listed under the lock, and selected and measured without
//! it. Then they are checked again and renamed away under the lock, and deleted afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use silo_store::digest::Digest;
use silo_store::flock::ExclusiveLock;
use silo_store::gc::{self, Candidate, Object};
use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::private;
use silo_store::read_limited;
use silo_store::removal::remove_tree;
use silo_store::scratch;
use silo_store::usage::LinkCounts;

use silo_base::event::Event;
use silo_base::home::Home;
use silo_base::units;
use silo_build::image::{self, ImageId};
use silo_guard::git::leftover_layers;
use silo_launch::reexec;
use silo_model::document;
use silo_review::stored_reviews;

use super::Context;
use super::cache_eviction;
use super::gc_roots;
use super::shims;
use super::trust::record;

/// Error of collecting garbage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The needed objects are unknown, or the store is in use.
    #[error("nothing was collected")]
    Keep(#[from] gc_roots::Error),
    /// The store failed.
    #[error("garbage collection in the layer store failed")]
    Store(#[from] gc::GcError),
    /// An operation on a file or directory failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A stored review could not be inspected or removed.
    #[error(transparent)]
    Review(#[from] silo_review::Error),
}

/// Options of a garbage collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Keep objects that were used more recently, in any case.
    pub min_age: Duration,
    /// Remove objects unused for this time. Without this and `max_size`, all unneeded objects are removed.
    pub max_age: Option<Duration>,
    /// Remove the least recently used objects until Silo's directory has at most this size.
    pub max_size: Option<u64>,
    /// Also remove downloads of any age. Limits of age and size apply to downloads in any case.
    pub downloads: bool,
    /// Limit on the number of removed images and layers, and of removed downloads.
    pub limit: Option<usize>,
}

/// Counts and size of the collected objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Layers.
    pub layers: usize,
    /// Images.
    pub images: usize,
    /// Downloads.
    pub downloads: usize,
    /// Leftovers of killed commands.
    pub leftovers: usize,
    /// Reviews of projects that are gone, and reviews without changes.
    pub reviews: usize,
    /// Disk space freed by the removal of images, layers, downloads and reviews.
    pub bytes: u64,
}

/// Objects selected for removal.
#[derive(Clone, Debug, Default)]
pub struct GcSelection {
    /// Images and layers.
    pub things: Vec<Candidate>,
    /// Downloads.
    pub downloads: Vec<PathBuf>,
}

/// Collects garbage.
pub fn collect(context: &Context<'_>, wish: &GcOptions) -> Result<Collected, Error> {
    collect_within(context, wish, gc_roots::PATIENCE)
}

fn collect_within(context: &Context<'_>, wish: &GcOptions, patience: Duration) -> Result<Collected, Error> {
    let choice = choose(context, wish, unneeded(context, &gc_roots::exclude(context.store, patience)?)?)?;
    // With all downloads, all logs are removed too: a failed step will run again and write a new log.
    let logs = if wish.downloads { Some(now(context)) } else { now(context).checked_sub(wish.min_age) };
    let mut collected = remove(context, &choice, logs, patience)?;
    let removed = stored_reviews::sweep(&context.home.reviews(), now(context), least_age(wish))?;
    forget_one_offs(context, least_age(wish))?;
    collected.reviews = removed.reviews;
    collected.bytes += removed.bytes;
    Ok(collected)
}

/// Returns the least age of removed reviews without a project, and of removed locks of one-off tools.
fn least_age(wish: &GcOptions) -> Duration {
    wish.max_age.map_or(wish.min_age, |age| age.max(wish.min_age))
}

/// Computes the result of [`collect`] and removes nothing.
pub fn foresee(context: &Context<'_>, wish: &GcOptions) -> Result<Collected, Error> {
    let choice = choose(context, wish, unneeded(context, &gc_roots::exclude(context.store, gc_roots::PATIENCE)?)?)?;
    let mut foreseen = measured(context, &choice)?;
    foreseen.leftovers = list_dir(&context.home.work())?.len();
    for layer in leftover_layers::list_leftover(&context.home.repositories())?.iter().filter(|layer| !layer.is_needed) {
        foreseen.leftovers += 1;
        foreseen.bytes += layer.bytes;
    }
    let reviews = stored_reviews::foresee(&context.home.reviews(), now(context), least_age(wish))?;
    foreseen.reviews = reviews.reviews;
    foreseen.bytes += reviews.bytes;
    Ok(foreseen)
}

/// Returns the counts and size of a selection.
pub fn measured(context: &Context<'_>, choice: &GcSelection) -> Result<Collected, Error> {
    let mut counted = count(choice.things.iter().map(|candidate| candidate.thing));
    counted.downloads = choice.downloads.len();
    let places = choice.things.iter().map(|candidate| gc::place(context.store, &candidate.thing));
    counted.bytes = gc::freed(&places.chain(choice.downloads.iter().cloned()).collect::<Vec<_>>())?;
    Ok(counted)
}

fn count(things: impl Iterator<Item = Object>) -> Collected {
    let mut counted = Collected::default();
    for thing in things {
        match thing {
            Object::Image(_) => counted.images += 1,
            Object::Layer(_) => counted.layers += 1,
        }
    }
    counted
}

/// Interval of automatic collections.
const AUTOMATIC_EVERY: Duration = Duration::from_secs(86_400);
/// Default of gc.maxAge for automatic collections.
const AUTOMATIC_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// Automatic collections keep newer objects: a failed install is likely to be tried again.
const AUTOMATIC_MIN_AGE: Duration = Duration::from_secs(86_400);
/// Limit on the objects that an automatic collection removes, so that it is fast; the rest is removed the next day.
const AUTOMATIC_LIMIT: usize = 200;

/// Automatic garbage collection after a command that added something, at most daily and as the settings allow.
///
/// Errors become warnings, because the command itself has succeeded. It does not wait for other users of the store.
pub fn by_itself(context: &Context<'_>) {
    // A project has no say about the home.
    let settings = &context.user_settings.gc;
    let stamp = context.home.collected();
    if settings.auto == Some(false) {
        return;
    }
    let last = fs::metadata(&stamp).and_then(|found| found.modified());
    // Without a stamp this is a new home, in which nothing is old enough.
    let due = last.as_ref().is_ok_and(|last| now(context).duration_since(*last).is_ok_and(|age| age >= AUTOMATIC_EVERY));
    if last.is_ok() && !due {
        return;
    }
    // If the stamp cannot be written, every install collects, which is slow and otherwise harmless.
    drop(private::write(&stamp, b""));
    if !due {
        return;
    }
    let wish = GcOptions {
        min_age: AUTOMATIC_MIN_AGE,
        max_age: settings.max_age.as_deref().and_then(|age| units::parse_age(age).ok()).or(Some(AUTOMATIC_MAX_AGE)),
        max_size: settings.max_size.as_deref().and_then(|size| units::parse_size(size).ok()),
        downloads: false,
        limit: Some(AUTOMATIC_LIMIT),
    };
    shrink_caches(context);
    match collect_within(context, &wish, Duration::ZERO) {
        Ok(collected) if collected.bytes > 0 => {
            let text = format!("freed {} of long unneeded images, layers and downloads (`silo gc --help`)", units::size(collected.bytes));
            (context.sink)(Event::Note { text });
        }
        Ok(_) | Err(Error::Keep(gc_roots::Error::Busy { .. })) => {}
        Err(error) => (context.sink)(Event::Warning { text: format!("automatic gc failed: {error}; run `silo gc` for details") }),
    }
}

/// Shrinks package caches to their limits, with a note.
fn shrink_caches(context: &Context<'_>) {
    let chosen = cache_eviction::choose(context.home, &cache_eviction::Policy::of(&context.user_settings.cache), now(context));
    let text = match chosen.map(|choice| cache_eviction::remove(&choice)) {
        Ok((0, _)) => return,
        Ok((files, bytes)) => format!("removed {files} least recently used files from package caches ({})", units::size(bytes)),
        Err(error) => return (context.sink)(Event::Warning { text: format!("cannot shrink package caches: {error}") }),
    };
    (context.sink)(Event::Note { text });
}

/// Returns the current time, rounded up to a second, so that objects from this second are not in the future.
pub fn now(context: &Context<'_>) -> SystemTime {
    let secs = u64::try_from(context.now).unwrap_or(0).saturating_add(1);
    // If the clock is out of range, nothing is old.
    UNIX_EPOCH.checked_add(Duration::from_secs(secs)).unwrap_or(UNIX_EPOCH)
}

/// Returns the unneeded objects, the least recently used first.
pub fn unneeded(context: &Context<'_>, exclusive: &ExclusiveLock) -> Result<Vec<Candidate>, Error> {
    let made_of = gc_roots::made_of(context.home)?;
    let keepers = gc_roots::keepers(context.home, context.store, &made_of)?;
    Ok(gc::unneeded(context.store, exclusive, &keepers, &made_of)?)
}

/// Selects from the unneeded objects, in their order. No image that stays loses a layer.
fn choose(context: &Context<'_>, wish: &GcOptions, unneeded: Vec<Candidate>) -> Result<GcSelection, Error> {
    let now = now(context);
    let is_older = |used: SystemTime, age: Duration| now.duration_since(used).is_ok_and(|since| since >= age);
    let mut rest = Vec::new();
    let mut choice = GcSelection::default();
    let all = wish.max_age.is_none() && wish.max_size.is_none();
    let mut items: Vec<Item> = unneeded.into_iter().map(Item::Thing).collect();
    for path in fetched(context)? {
        items.push(Item::Download(used(&path)?, path));
    }
    // A stable sort: at equal times, images stay before their layers.
    items.sort_by_key(Item::used);
    for item in items {
        let whatever_its_age = wish.downloads && matches!(item, Item::Download(..));
        if !whatever_its_age && !is_older(item.used(), wish.min_age) {
            continue;
        }
        let aged = wish.max_age.is_some_and(|age| is_older(item.used(), age));
        if whatever_its_age || aged || (all && matches!(item, Item::Thing(_))) {
            choice.add(item);
        } else {
            rest.push(item);
        }
    }
    if let Some(cap) = wish.max_size {
        fit(context, cap, &mut choice, rest)?;
    }
    if let Some(limit) = wish.limit {
        choice.things.truncate(limit);
        choice.downloads.truncate(limit);
    }
    Ok(choice)
}

/// Extends the selection, in order, until the remaining size fits the limit.
fn fit(context: &Context<'_>, cap: u64, choice: &mut GcSelection, rest: Vec<Item>) -> Result<(), Error> {
    let takes = LinkCounts::default().add(context.home.root())?.fresh;
    let mut going = LinkCounts::default();
    let mut freed = 0;
    for candidate in &choice.things {
        freed += going.add(&gc::place(context.store, &candidate.thing))?.freed;
    }
    for path in &choice.downloads {
        freed += going.add(path)?.freed;
    }
    for item in rest {
        if takes.saturating_sub(freed) <= cap {
            break;
        }
        let place = match &item {
            Item::Thing(candidate) => gc::place(context.store, &candidate.thing),
            Item::Download(_, path) => path.clone(),
        };
        freed += going.add(&place)?.freed;
        choice.add(item);
    }
    Ok(())
}

enum Item {
    Thing(Candidate),
    Download(SystemTime, PathBuf),
}

impl Item {
    fn used(&self) -> SystemTime {
        match self {
            Item::Thing(candidate) => candidate.used,
            Item::Download(used, _) => *used,
        }
    }
}

impl GcSelection {
    fn add(&mut self, item: Item) {
        match item {
            Item::Thing(candidate) => self.things.push(candidate),
            Item::Download(_, path) => self.downloads.push(path),
        }
    }
}

/// Removes selected objects that are still unneeded, leftovers of killed commands, and logs from before `logs`.
pub fn remove(context: &Context<'_>, choice: &GcSelection, logs: Option<SystemTime>, patience: Duration) -> Result<Collected, Error> {
    let exclusive = gc_roots::exclude(context.store, patience)?;
    let things = gc::still(&choice.things, &unneeded(context, &exclusive)?);
    let mut collected = count(things.iter().copied());
    forget_images(context, &things)?;
    forget_logs(context, logs)?;
    for path in &choice.downloads {
        collected.bytes += LinkCounts::default().add(path)?.freed;
        removed(path)?;
        collected.downloads += 1;
    }
    // No build runs while we hold the exclusive lock, so everything here is left over.
    for path in list_dir(&context.home.work())? {
        let doing = "take back the files of a killed step in";
        let own = silo_launch::this_program().map_err(std::io::Error::other).and_then(|program| reexec::reclaim(&program, &path));
        own.map_err(|source| Error::File(PathError { doing, path: path.clone(), source }))?;
        scratch::abandon(context.store, &path)?;
    }
    collected.leftovers += half_written(context.home)?;
    forget_records(context.home)?;
    let layers = leftover_layers::sweep(&context.home.repositories())?;
    collected.leftovers += layers.layers;
    collected.bytes += layers.bytes;
    let swept = gc::sweep(context.store, exclusive, &things)?;
    collected.leftovers += swept.stages.len();
    collected.bytes += swept.bytes;
    Ok(collected)
}

/// Removes temporary files of Silo's own small files after killed commands, and returns their number.
pub fn half_written(home: &Home) -> Result<usize, Error> {
    let mut dirs =
        vec![home.root().to_owned(), home.tools(), home.projects(), home.locks(), home.ecosystems(), home.terminals(), home.run_records()];
    dirs.extend(list_dir(&home.kept_projects())?);
    for record in list_dir(&home.trust())? {
        dirs.extend([record.join(record::COPIES), record]);
    }
    let mut gone = shims::sweep(home)?;
    for dir in dirs {
        gone += document::sweep(&dir).map_err(|source| Error::File(PathError { doing: "list", path: dir, source }))?;
    }
    for path in [list_dir(home.root())?, list_dir(&home.projects())?].concat() {
        if is_of_earlier(&path) {
            removed(&path)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Returns true for `<name>.new.<pid>`, the form of temporary names in earlier versions.
fn is_of_earlier(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let process = name.rsplit_once(".new.").map(|(_, process)| process);
    process.is_some_and(|process| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes invalid records of derivations, and those of missing or removed images, with the copies of their files for editors.
fn forget_images(context: &Context<'_>, things: &[Object]) -> Result<(), Error> {
    let going = |thing: &Object| match thing {
        Object::Image(id) => Some(*id),
        Object::Layer(_) => None,
    };
    let gone: BTreeSet<Digest> = things.iter().filter_map(going).collect();
    let here: BTreeSet<ImageId> = image::list(context.home).map_err(gc_roots::Error::from)?.into_iter().collect();
    for path in list_dir(&context.home.made())? {
        let text = fs::read_to_string(&path).map_err(|source| Error::File(PathError { doing: "read", path: path.clone(), source }))?;
        let is_note = path.extension().is_none();
        let useful = is_note && ImageId::parse(text.trim()).is_some_and(|id| here.contains(&id) && !gone.contains(&id.digest()));
        if !useful {
            removed(&path)?;
        }
    }
    for path in list_dir(&context.home.sources())? {
        // The copies of a cache's files have the project after the image.
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let id = ImageId::parse(name.split('.').next().unwrap_or_default());
        if !id.is_some_and(|id| here.contains(&id) && !gone.contains(&id.digest())) {
            removed(&path)?;
        }
    }
    Ok(())
}

/// Removes the logs of steps, and the records of runs that have ended, from before a time.
fn forget_logs(context: &Context<'_>, before: Option<SystemTime>) -> Result<(), Error> {
    let Some(before) = before else { return Ok(()) };
    let of_runs = [context.home.network_logs(), context.home.run_records()];
    for dir in [&context.home.logs()].into_iter().chain(&of_runs) {
        for path in list_dir(dir)?.into_iter().filter(|path| !of_runs.contains(path)) {
            if used(&path).is_ok_and(|used| used <= before) && !is_in_use(&path) {
                removed(&path)?;
            }
        }
    }
    Ok(())
}

/// Removes the notes of records whose lists are gone; lists and bodies are downloads.
fn forget_records(home: &Home) -> Result<(), Error> {
    for path in list_dir(&home.recorded())? {
        let list = read_limited::read(&path, 100).ok().and_then(|text| String::from_utf8(text).ok());
        if !list.is_some_and(|list| Digest::parse(&list).is_ok_and(|list| home.downloads().join(list.to_string()).exists())) {
            removed(&path)?;
        }
    }
    Ok(())
}

/// Removes the locks of one-off tools that were not used for this time, as their images are.
fn forget_one_offs(context: &Context<'_>, age: Duration) -> Result<(), Error> {
    for path in list_dir(&context.home.one_off())? {
        if used(&path).is_ok_and(|used| now(context).duration_since(used).is_ok_and(|since| since >= age)) {
            removed(&path)?;
        }
    }
    Ok(())
}

/// Returns true for the record of a run that has not ended: its silo holds a lock on it.
fn is_in_use(path: &Path) -> bool {
    fs::File::open(path).and_then(LockedFile::try_exclusive).is_ok_and(|held| held.is_none())
}

/// Returns the downloads, complete or partial.
pub fn fetched(context: &Context<'_>) -> Result<Vec<PathBuf>, Error> {
    list_dir(&context.home.downloads())
}

fn used(path: &Path) -> Result<SystemTime, Error> {
    let found = fs::symlink_metadata(path).and_then(|found| found.modified());
    found.map_err(|source| Error::File(PathError { doing: "inspect", path: path.to_owned(), source }))
}

fn removed(path: &Path) -> Result<(), Error> {
    Ok(remove_tree(path)?)
}

fn list_dir(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File(PathError { doing: "list", path: dir.to_owned(), source });
    match fs::read_dir(dir) {
        Ok(listing) => listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}
