//! Builds and records the tools of a project as defined by its `silo.toml` and `silo.lock`, all in one build.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use silo_store::digest::{Digest, LayerId};
use silo_store::flock::{self as store_lock, BuildLock, SharedLock};

use crate::journal::Change;
use silo_base::home::PROJECT_LOCK;
use silo_base::system::Arch;
use silo_build::image::{self, ImageId};
use silo_build::{Built, Target};
use silo_model::config::Trust;
use silo_model::config::project::ProjectFiles;
use silo_model::lock::{Lock, Sha256, StepOutput};

use super::Context;
use super::caches;
use super::definition::{self, Definition, Scope};
use super::ecosystems;
use super::install::{self, Error};
use super::lock_files::{self, Resolving, Staged};
use super::projects::{self, Pinned, Project};
use super::shims;
use super::trust;

/// Interval of the attempts to take a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Options of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    /// The tools to sync; `None` for all tools that the project claims.
    pub only: Option<BTreeSet<String>>,
    /// Permission to change the lock.
    pub resolving: Resolving,
    /// True if locked tools get new locks.
    pub update: bool,
    /// True if pinned steps run again and get new pins.
    pub anew: bool,
    /// True to make the lock only, and build nothing.
    pub lock_only: bool,
    /// True to report only, and change nothing.
    pub dry_run: bool,
    /// Changes of files that are committed together with the lock. If there are any, nothing is committed unless all tools succeed.
    pub with: Vec<Change>,
}

impl Default for SyncOptions {
    fn default() -> SyncOptions {
        SyncOptions {
            only: None,
            resolving: Resolving::Allowed,
            update: false,
            anew: false,
            lock_only: false,
            dry_run: false,
            with: Vec::new(),
        }
    }
}

/// Result for one tool.
#[derive(Debug)]
pub struct Synced {
    /// The tool.
    pub tool: String,
    /// The result.
    pub outcome: Result<ToolChanges, Error>,
}

/// Changes made, or to be made, for one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolChanges {
    /// The version.
    pub version: String,
    /// The image, if it exists.
    pub image: Option<ImageId>,
    /// True if the lock changed.
    pub locked: bool,
    /// Number of layers that were made, not counting reused ones.
    pub made: usize,
    /// True if the image is new.
    pub fresh: bool,
}

/// A tool with its lock, before the build.
struct Prepared {
    definition: Definition,
    lock: Lock,
    version: String,
}

/// Syncs the project's tools. Each succeeds or fails separately.
pub fn sync(context: &Context<'_>, wish: &SyncOptions) -> Result<Vec<Synced>, Error> {
    let tools = match &wish.only {
        Some(only) => only.clone(),
        None => definition::claimed(context.view())?,
    };
    let store = |source: Box<dyn std::error::Error + Send + Sync>| Error::Store(source);
    let shared = store_lock::share(context.store).map_err(|error| store(Box::new(error)))?;
    // Two syncs of one project would write the same lock file.
    let _ours = if wish.dry_run { None } else { Some(alone(context, &shared)?) };
    let files = with_todays_lock(context)?;
    let context = &context.with_files(&files);
    let prepared: Vec<(String, Result<Prepared, Error>)> =
        tools.into_iter().map(|tool| (tool.clone(), prepare(context, &tool, wish))).collect();
    let ready: Vec<&Prepared> = prepared.iter().filter_map(|(_, prepared)| prepared.as_ref().ok()).collect();
    let built = if wish.dry_run || wish.lock_only { Vec::new() } else { build_all(context, &shared, wish, &ready) };
    let mut built = built.into_iter();
    let mut all = Vec::with_capacity(prepared.len());
    let mut locks = Staged::default();
    for (tool, prepared) in prepared {
        let outcome = match prepared {
            Err(error) => Err(error),
            Ok(prepared) if wish.dry_run => report_changes(context, prepared),
            Ok(prepared) if wish.lock_only => keep_tools(context, prepared, &mut locks),
            Ok(prepared) => match built.next() {
                Some(Ok(built)) => finish(context, prepared, built, &mut locks),
                Some(Err(error)) => Err(failed(&tool, error)),
                None => Err(silo_build::Error::fault(format!("{tool} was not built")).into()),
            },
        };
        all.push(Synced { tool, outcome });
    }
    if wish.dry_run || (!wish.with.is_empty() && all.iter().any(|one| one.outcome.is_err())) {
        return Ok(all);
    }
    // GC roots first: a record without a root would name images that can be collected.
    if !wish.lock_only {
        keep_images(context, &shared, &all)?;
    }
    let changes: Vec<Change> = wish.with.iter().cloned().chain(locks.changes(context.home)?).collect();
    trust::commit(context.home, context.project, &changes).map_err(lock_files::Error::from)?;
    // A shim always starts the tool of this machine's platform.
    if !wish.lock_only && context.home.arch() == Arch::host() {
        let made: Vec<&str> = all.iter().filter(|one| one.outcome.is_ok()).map(|one| one.tool.as_str()).collect();
        shims::synced(context, &made)?;
    }
    Ok(all)
}

/// Locks the project against other syncs; waits for them.
fn alone(context: &Context<'_>, shared: &SharedLock) -> Result<BuildLock, Error> {
    use std::os::unix::ffi::OsStrExt;
    let key = Digest::of(context.project.as_os_str().as_bytes());
    loop {
        if context.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(silo_build::Error::Stopped.into());
        }
        let locked = store_lock::try_build(context.store, shared, &key).map_err(|error| Error::Store(Box::new(error)))?;
        match locked {
            Some(ours) => return Ok(ours),
            None => thread::sleep(LOCK_PAUSE),
        }
    }
}

/// Returns the judged files of the project with the silo.lock that another sync has just written, if that counts, too.
fn with_todays_lock(context: &Context<'_>) -> Result<ProjectFiles, Error> {
    let today = ProjectFiles::read(context.project).map_err(definition::Error::from)?;
    if today.digest(PROJECT_LOCK) == context.files.digest(PROJECT_LOCK) {
        return Ok(context.files.clone());
    }
    let is_trusted = context.user_settings.trust == Some(Trust::Always);
    let counts = is_trusted || trust::judge(context.home, &today).map_err(lock_files::Error::from)? == trust::Verdict::Counts;
    if !counts {
        return Err(Error::ChangedLock { path: context.project.join(PROJECT_LOCK) });
    }
    Ok(context.files.clone().with_file_of(PROJECT_LOCK, &today))
}

fn prepare(context: &Context<'_>, tool: &str, wish: &SyncOptions) -> Result<Prepared, Error> {
    let definition = definition::of(context.view(), tool, Scope::Project)?;
    let lock = match wish.update {
        true => lock_files::resolve(context, &definition)?,
        false => lock_files::obtain(context, &definition, wish.resolving)?,
    };
    let version = install::check_version(&definition, &lock)?;
    Ok(Prepared { definition, lock, version })
}

fn build_all(context: &Context<'_>, shared: &SharedLock, wish: &SyncOptions, ready: &[&Prepared]) -> Vec<Result<Built, silo_build::Error>> {
    ready.iter().for_each(|one| ecosystems::learn_for_steps(context, &one.definition));
    let mirrors = OnceCell::new();
    let frozen = wish.resolving == Resolving::Frozen;
    // The same command may have failed after its build: its image is there, and its lock is not.
    let notes_layers = !wish.with.is_empty();
    let once = || {
        let targets: Vec<Target<'_>> =
            ready.iter().map(|one| Target { frozen, anew: wish.anew, notes_layers, ..one.definition.target(&one.lock) }).collect();
        let cached = caches::take(context, shared, &context.settings.caches, &targets);
        silo_build::build(&silo_build::BuildContext { layers: Some(&cached), ..install::workshop(context, shared, &mirrors) }, &targets)
    };
    let built = once();
    let unknown: BTreeMap<&str, &str> = ready
        .iter()
        .zip(&built)
        .filter_map(|(one, built)| match built {
            Err(silo_build::Error::NoClient { name, .. }) => Some((name.as_str(), one.definition.tool())),
            _ => None,
        })
        .collect();
    let learned = unknown.iter().filter(|(name, tool)| (context.learn_client)(context, tool, name)).count();
    if learned > 0 { once() } else { built }
}

fn failed(tool: &str, error: silo_build::Error) -> Error {
    match error {
        silo_build::Error::Fetch(error) if error.is_gone() => {
            Error::Gone { tool: tool.to_owned(), source: Box::new(silo_build::Error::Fetch(error)) }
        }
        error => error.into(),
    }
}

/// Describes the result of a sync, without doing it.
fn report_changes(context: &Context<'_>, prepared: Prepared) -> Result<ToolChanges, Error> {
    let existing = lock_files::existing(context.view(), &prepared.definition)?;
    let image = silo_build::known(context.home, &prepared.definition.target(&prepared.lock));
    let locked = existing.as_ref() != Some(&prepared.lock);
    Ok(ToolChanges { version: prepared.version, image, locked, made: 0, fresh: image.is_none() })
}

fn keep_tools(context: &Context<'_>, prepared: Prepared, locks: &mut Staged) -> Result<ToolChanges, Error> {
    let locked = locks.put(context.view(), &prepared.definition, &prepared.lock)?;
    Ok(ToolChanges { version: prepared.version, image: None, locked, made: 0, fresh: false })
}

fn finish(context: &Context<'_>, prepared: Prepared, built: Built, locks: &mut Staged) -> Result<ToolChanges, Error> {
    let Prepared { definition, mut lock, version } = prepared;
    let fresh = built.outputs.is_some();
    built.note(definition.arch, &mut lock);
    let pins = lock.steps.remove(&definition.arch).unwrap_or_default();
    let outputs = match built.outputs {
        Some(outputs) => outputs,
        None => used_pins(context, built.image, pins)?,
    };
    if !outputs.is_empty() {
        lock.steps.insert(definition.arch, outputs);
    }
    let locked = locks.put(context.view(), &definition, &lock)?;
    // Without its probes, the client of the image is not the one that ships.
    if !definition.found.recipe.ecosystems.is_empty() {
        install::learn(context, &definition.found.recipe, built.image);
    }
    Ok(ToolChanges { version, image: Some(built.image), locked, made: built.made, fresh })
}

/// Returns the pins of the steps that an image was made by. The lock of a recipe also pins the steps of its other versions.
fn used_pins(
    context: &Context<'_>,
    image: ImageId,
    mut pins: BTreeMap<Sha256, StepOutput>,
) -> Result<BTreeMap<Sha256, StepOutput>, silo_build::Error> {
    if let Some(image) = image::get(context.home, image)? {
        let layers = image.layer_set();
        pins.retain(|_, output| layers.contains(&LayerId::new(output.layer.0)));
    }
    Ok(pins)
}

/// Keeps the images of all tools of the project, including tools that were not just synced.
fn keep_images(context: &Context<'_>, shared: &SharedLock, all: &[Synced]) -> Result<(), Error> {
    let mut tools: BTreeMap<String, Pinned> = BTreeMap::new();
    for tool in definition::claimed(context.view())? {
        let synced = all.iter().find(|one| one.tool == tool).map(|one| one.outcome.as_ref().ok());
        let pinned = match synced {
            Some(done) => done.and_then(|done| Some(Pinned { version: done.version.clone(), image: done.image? })),
            None => None,
        };
        let pinned = pinned.or_else(|| {
            let there = definition::image(context.view(), &tool).ok()??;
            Some(Pinned { version: there.version, image: there.image })
        });
        tools.extend(pinned.map(|pinned| (tool, pinned)));
    }
    let project = Project { path: context.project.to_owned(), tools, last_used: context.now };
    Ok(projects::put(context.home, context.store, shared, &project)?)
}
