//! Collecting what nothing needs: images, layers, downloads, and the leftovers of killed commands.
//!
//! What goes is chosen without holding anybody up: under the store's lock it is only looked up what is unneeded, then
//! chosen and measured without the lock, then looked up again and renamed away under it, and deleted afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use silo_store::digest::Digest;
use silo_store::gc::{self, Candidate, Thing};
use silo_store::lock::ExclusiveLock;
use silo_store::path_error::PathError;
use silo_store::private;
use silo_store::removal::remove_tree;
use silo_store::scratch;
use silo_store::usage::Ledger;

use crate::amount;
use crate::document;
use crate::event::Event;
use crate::git::left;
use crate::home::Home;
use crate::image::{self, ImageId};

use super::Context;
use super::evict;
use super::keep;
use super::shims;
use super::trust::record;

/// Why nothing was collected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not known what is needed, or the store is in use.
    #[error("nothing was collected")]
    Keep(#[from] keep::Error),
    /// The store refused.
    #[error("the layer store refused to collect")]
    Store(#[from] gc::GcError),
    /// A path of the store could not be worked with.
    #[error(transparent)]
    Path(#[from] PathError),
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
}

/// What to collect of all that nothing needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// What was used more recently is kept, whatever else is wished.
    pub min_age: Duration,
    /// What was not used for so long goes. Without this and `max_size`, everything goes.
    pub max_age: Option<Duration>,
    /// The least recently used goes until all of Silo's directory takes at most so much.
    pub max_size: Option<u64>,
    /// Whether fetched files go too, whatever their age; by age and size they go anyway.
    pub downloads: bool,
    /// At most so many images, layers and files go.
    pub limit: Option<usize>,
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
    /// The disk space that images, layers and fetched files give back.
    pub bytes: u64,
}

/// What was chosen to go.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Images and layers.
    pub things: Vec<Candidate>,
    /// Fetched files.
    pub downloads: Vec<PathBuf>,
}

/// Collects.
pub fn collect(context: &Context<'_>, wish: &Wish) -> Result<Collected, Error> {
    collect_within(context, wish, keep::PATIENCE)
}

fn collect_within(context: &Context<'_>, wish: &Wish, patience: Duration) -> Result<Collected, Error> {
    let choice = choose(context, wish, unneeded(context, &keep::exclude(context.store, patience)?)?)?;
    // A step that fails is run and logged anew, so all logs go with all fetched files.
    let logs = if wish.downloads { Some(now(context)) } else { now(context).checked_sub(wish.min_age) };
    remove(context, &choice, logs, patience)
}

/// Says what [`collect`] would do, and does nothing.
pub fn foresee(context: &Context<'_>, wish: &Wish) -> Result<Collected, Error> {
    let choice = choose(context, wish, unneeded(context, &keep::exclude(context.store, keep::PATIENCE)?)?)?;
    let mut foreseen = measured(context, &choice)?;
    foreseen.leftovers = listed(&context.home.work())?.len();
    for layer in left::look(&context.home.repositories())?.iter().filter(|layer| !layer.is_needed) {
        foreseen.leftovers += 1;
        foreseen.bytes += layer.bytes;
    }
    Ok(foreseen)
}

/// Counts what a choice is and takes.
pub fn measured(context: &Context<'_>, choice: &Choice) -> Result<Collected, Error> {
    let mut counted = count(choice.things.iter().map(|candidate| candidate.thing));
    counted.downloads = choice.downloads.len();
    let places = choice.things.iter().map(|candidate| gc::place(context.store, &candidate.thing));
    counted.bytes = gc::freed(&places.chain(choice.downloads.iter().cloned()).collect::<Vec<_>>())?;
    Ok(counted)
}

fn count(things: impl Iterator<Item = Thing>) -> Collected {
    let mut counted = Collected::default();
    for thing in things {
        match thing {
            Thing::Image(_) => counted.images += 1,
            Thing::Layer(_) => counted.layers += 1,
        }
    }
    counted
}

/// How long passes between two collections that nobody asked for.
const AUTOMATIC_EVERY: Duration = Duration::from_secs(86_400);
/// How long unneeded things stay unused before they go by themselves, unless gc.maxAge says otherwise.
const AUTOMATIC_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// What is younger never goes by itself: an install that failed is likely to be tried again.
const AUTOMATIC_MIN_AGE: Duration = Duration::from_secs(86_400);
/// How much goes by itself at once; the rest goes the next day.
const AUTOMATIC_LIMIT: usize = 200;

/// Collects by itself what the settings allow, after a command that added something; at most once a day.
///
/// What goes wrong is told as a warning: the command itself has succeeded. Nobody is waited for.
pub fn by_itself(context: &Context<'_>) {
    let settings = &context.settings.gc;
    let stamp = context.home.collected();
    if settings.auto == Some(false) {
        return;
    }
    let last = fs::metadata(&stamp).and_then(|found| found.modified());
    // The first time there is nothing old enough to go.
    let due = last.as_ref().is_ok_and(|last| now(context).duration_since(*last).is_ok_and(|age| age >= AUTOMATIC_EVERY));
    if last.is_ok() && !due {
        return;
    }
    // Without the stamp it would be tried after every install, which costs time and harms nothing.
    drop(private::write(&stamp, b""));
    if !due {
        return;
    }
    let wish = Wish {
        min_age: AUTOMATIC_MIN_AGE,
        max_age: settings.max_age.as_deref().and_then(|age| amount::parse_age(age).ok()).or(Some(AUTOMATIC_MAX_AGE)),
        max_size: settings.max_size.as_deref().and_then(|size| amount::parse_size(size).ok()),
        downloads: false,
        limit: Some(AUTOMATIC_LIMIT),
    };
    shrink_caches(context);
    match collect_within(context, &wish, Duration::ZERO) {
        Ok(collected) if collected.bytes > 0 => {
            let text = format!("{} were freed of what nothing needed for a while (`silo gc --help`)", amount::size(collected.bytes));
            (context.sink)(Event::Note { text });
        }
        Ok(_) | Err(Error::Keep(keep::Error::Busy { .. })) => {}
        Err(error) => (context.sink)(Event::Warning { text: format!("collecting what nothing needs: {error}; `silo gc` says more") }),
    }
}

/// Removes what is too old or too much in package caches, and says so.
fn shrink_caches(context: &Context<'_>) {
    let chosen = evict::choose(context.home, &evict::Policy::of(&context.user_settings.cache), now(context));
    let text = match chosen.map(|choice| evict::remove(&choice)) {
        Ok((0, _)) => return,
        Ok((files, bytes)) => format!("{files} files of package caches were removed, the least lately used ({})", amount::size(bytes)),
        Err(error) => return (context.sink)(Event::Warning { text: format!("making package caches smaller: {error}") }),
    };
    (context.sink)(Event::Note { text });
}

/// Whole seconds, rounded up: what was made in this very second is not younger than now.
pub fn now(context: &Context<'_>) -> SystemTime {
    let secs = u64::try_from(context.now).unwrap_or(0).saturating_add(1);
    // A clock beyond the end of what the system counts tells nothing, so nothing is old.
    UNIX_EPOCH.checked_add(Duration::from_secs(secs)).unwrap_or(UNIX_EPOCH)
}

/// Returns what nothing needs, the least recently used first.
pub fn unneeded(context: &Context<'_>, exclusive: &ExclusiveLock) -> Result<Vec<Candidate>, Error> {
    let made_of = keep::made_of(context.home)?;
    let keepers = keep::keepers(context.home, context.store, &made_of)?;
    Ok(gc::unneeded(context.store, exclusive, &keepers, &made_of)?)
}

/// Chooses of what nothing needs, in its order, so that no image that stays loses a layer.
fn choose(context: &Context<'_>, wish: &Wish, unneeded: Vec<Candidate>) -> Result<Choice, Error> {
    let now = now(context);
    let is_older = |used: SystemTime, age: Duration| now.duration_since(used).is_ok_and(|since| since >= age);
    let mut rest = Vec::new();
    let mut choice = Choice::default();
    let all = wish.max_age.is_none() && wish.max_size.is_none();
    let mut items: Vec<Item> = unneeded.into_iter().map(Item::Thing).collect();
    for path in fetched(context)? {
        items.push(Item::Download(used(&path)?, path));
    }
    // Stable: things of one time stay in their order.
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

/// Adds to a choice what has to go, the first first, until what stays fits.
fn fit(context: &Context<'_>, cap: u64, choice: &mut Choice, rest: Vec<Item>) -> Result<(), Error> {
    let takes = Ledger::default().add(context.home.root())?.fresh;
    let mut going = Ledger::default();
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

impl Choice {
    fn add(&mut self, item: Item) {
        match item {
            Item::Thing(candidate) => self.things.push(candidate),
            Item::Download(_, path) => self.downloads.push(path),
        }
    }
}

/// Removes what was chosen and is still unneeded, and the leftovers of killed commands. Logs from before `logs` go too.
pub fn remove(context: &Context<'_>, choice: &Choice, logs: Option<SystemTime>, patience: Duration) -> Result<Collected, Error> {
    let exclusive = keep::exclude(context.store, patience)?;
    let things = gc::still(&choice.things, &unneeded(context, &exclusive)?);
    let mut collected = count(things.iter().copied());
    forget_images(context, &things)?;
    forget_logs(context, logs)?;
    for path in &choice.downloads {
        collected.bytes += Ledger::default().add(path)?.freed;
        removed(path)?;
        collected.downloads += 1;
    }
    // Nobody builds while the lock is ours, so all of this is left over.
    for path in listed(&context.home.work())? {
        scratch::abandon(context.store, &path)?;
    }
    collected.leftovers += half_written(context.home)?;
    let layers = left::sweep(&context.home.repositories())?;
    collected.leftovers += layers.layers;
    collected.bytes += layers.bytes;
    let swept = gc::sweep(context.store, exclusive, &things)?;
    collected.leftovers += swept.stages.len();
    collected.bytes += swept.bytes;
    Ok(collected)
}

/// Removes what killed commands were writing of silo's own small files, and returns how many those were.
pub fn half_written(home: &Home) -> Result<usize, Error> {
    let mut dirs = vec![home.root().to_owned(), home.tools(), home.projects(), home.locks(), home.ecosystems(), home.terminals()];
    dirs.extend(listed(&home.kept_projects())?);
    for record in listed(&home.trust())? {
        dirs.extend([record.join(record::COPIES), record]);
    }
    let mut gone = shims::sweep(home)?;
    for dir in dirs {
        gone += document::sweep(&dir).map_err(|source| Error::File { doing: "list", path: dir, source })?;
    }
    for path in [listed(home.root())?, listed(&home.projects())?].concat() {
        if is_of_earlier(&path) {
            removed(&path)?;
            gone += 1;
        }
    }
    Ok(gone)
}

/// Whether a name is `<name>.new.<process>`, which earlier versions gave to what was not whole yet.
fn is_of_earlier(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let process = name.rsplit_once(".new.").map(|(_, process)| process);
    process.is_some_and(|process| !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Removes the notes of which derivation made an image that is gone or goes, and what is no whole note.
fn forget_images(context: &Context<'_>, things: &[Thing]) -> Result<(), Error> {
    let going = |thing: &Thing| match thing {
        Thing::Image(id) => Some(*id),
        Thing::Layer(_) => None,
    };
    let gone: BTreeSet<Digest> = things.iter().filter_map(going).collect();
    let here: BTreeSet<ImageId> = image::list(context.home).map_err(keep::Error::from)?.into_iter().collect();
    for path in listed(&context.home.made())? {
        let text = fs::read_to_string(&path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?;
        let is_note = path.extension().is_none();
        let useful = is_note && ImageId::parse(text.trim()).is_some_and(|id| here.contains(&id) && !gone.contains(&id.digest()));
        if !useful {
            removed(&path)?;
        }
    }
    Ok(())
}

/// Removes the logs of steps from before a moment; a step that fails is run and logged anew.
fn forget_logs(context: &Context<'_>, before: Option<SystemTime>) -> Result<(), Error> {
    for path in listed(&context.home.logs())? {
        if before.is_some_and(|before| used(&path).is_ok_and(|used| used <= before)) {
            removed(&path)?;
        }
    }
    Ok(())
}

/// Returns the fetched files, whole or not.
pub fn fetched(context: &Context<'_>) -> Result<Vec<PathBuf>, Error> {
    listed(&context.home.downloads())
}

fn used(path: &Path) -> Result<SystemTime, Error> {
    let found = fs::symlink_metadata(path).and_then(|found| found.modified());
    found.map_err(|source| Error::File { doing: "inspect", path: path.to_owned(), source })
}

fn removed(path: &Path) -> Result<(), Error> {
    Ok(remove_tree(path)?)
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { doing: "list", path: dir.to_owned(), source };
    match fs::read_dir(dir) {
        Ok(listing) => listing.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}
