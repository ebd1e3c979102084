//! Installs a tool: makes its lock, its image, its record, in this order. Only with the record it is installed.

use std::cell::OnceCell;
use std::path::PathBuf;

use silo_store::flock::{self as store_lock, SharedLock};
use silo_store::gc_roots::{self, Root, RootName};

use crate::journal::{self, Change};
use silo_base::event::Event;
use silo_base::system::Arch;
use silo_base::units;
use silo_build::budget::MAX_STEP_BYTES;
use silo_build::image::{self, ImageId};
use silo_build::network;
use silo_build::{BuildContext, Built, Target};
use silo_fetch::mirrors::Mirrors;
use silo_model::lock::Lock;
use silo_model::recipe::Recipe;
use silo_model::recipe::catalog::Origin;
use silo_model::recipe::versions::is_of;

use super::Context;
use super::caches;
use super::definition::{self, Definition, Scope};
use super::gc_roots::TOOL;
use super::lock_files::{self, Resolving, Staged};
use super::projects;
use super::record::{self, Installed};
use super::shims;

/// Error of installing a tool.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition of the tool cannot be read.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// It has no lock.
    #[error(transparent)]
    Lock(#[from] lock_files::Error),
    /// The build failed.
    #[error(transparent)]
    Build(#[from] silo_build::Error),
    /// Its record could not be read or written.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The project's record could not be written.
    #[error(transparent)]
    Project(#[from] projects::Error),
    /// The store could not be locked or written.
    #[error("the layer store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The lock has another version than requested.
    #[error("{tool} {wanted} is not available: {}", describe(.available, .others))]
    Version {
        /// The tool.
        tool: String,
        /// The requested version.
        wanted: String,
        /// The version of its lock.
        available: String,
        /// The other versions of its recipe.
        others: Vec<String>,
    },
    /// Its shims could not be made.
    #[error(transparent)]
    Shims(#[from] shims::Error),
    /// A file changed after it was judged.
    #[error("{path} was changed while silo worked, and a tool could write it", path = .path.display())]
    ChangedLock {
        /// The lock file.
        path: PathBuf,
    },
    /// A locked file is not available any more.
    #[error("{tool}: a locked package was not found on any mirror or in the snapshot archive")]
    Gone {
        /// The tool.
        tool: String,
        /// The file and the addresses that were tried.
        #[source]
        source: Box<silo_build::Error>,
    },
}

/// Lists the available versions.
fn describe(available: &str, others: &[String]) -> String {
    match others {
        [] => format!("its lock has {available}"),
        others => format!("there are {available}, {}", others.join(", ")),
    }
}

/// Options of an install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallOptions {
    /// The tool.
    pub name: String,
    /// The version or a prefix of one, such as `3.13`.
    pub version: Option<String>,
    /// Permission to make a lock.
    pub resolving: Resolving,
    /// True if pinned steps run again and get new pins.
    pub anew: bool,
    /// Changes of files that are committed together with the lock, if the install succeeds.
    pub with: Vec<Change>,
}

/// Result of an install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The architecture of its image.
    pub arch: Arch,
    /// The installed tool.
    pub tool: Installed,
    /// True if anything changed.
    pub fresh: bool,
    /// Number of layers that were made, not counting reused ones.
    pub made: usize,
}

/// Installs a tool, unless it is installed already.
pub fn install(context: &Context<'_>, wish: &InstallOptions) -> Result<Outcome, Error> {
    let context = &context.without_project();
    let definition = definition::of_version(context.view(), &wish.name, Scope::Global, wish.version.as_deref())?;
    let shared = store_lock::share(context.store).map_err(|source| Error::Store(Box::new(source)))?;
    let lock = lock_files::obtain(context, &definition, wish.resolving)?;
    let made = make(context, &shared, &definition, lock, wish)?;
    record(context, &shared, &definition, made, &wish.with)
}

/// Installs tools. Their steps are built at the same time, and the tools are recorded in order; a build that fails does not stop the others.
/// If a tool is unknown or has no lock, nothing is built, and only such errors are returned. Each result has the name of its tool.
pub fn install_all<'a>(context: &Context<'_>, wishes: &'a [InstallOptions]) -> Vec<(&'a str, Result<Outcome, Error>)> {
    let is_repeated = |at: usize| wishes[..at].iter().any(|before| before.name == wishes[at].name);
    if wishes.len() < 2 || (0..wishes.len()).any(is_repeated) {
        return wishes.iter().map(|wish| (wish.name.as_str(), install(context, wish))).collect();
    }
    let context = &context.without_project();
    let shared = match store_lock::share(context.store) {
        Ok(shared) => shared,
        Err(source) => return vec![(&wishes[0].name, Err(Error::Store(Box::new(source))))],
    };
    let prepare = |wish: &InstallOptions| -> Result<(Definition, Lock), Error> {
        let definition = definition::of_version(context.view(), &wish.name, Scope::Global, wish.version.as_deref())?;
        let lock = lock_files::obtain(context, &definition, wish.resolving)?;
        check_version(&definition, &lock)?;
        Ok((definition, lock))
    };
    let (mut prepared, mut failed) = (Vec::new(), Vec::new());
    for wish in wishes {
        match prepare(wish) {
            Ok(one) => prepared.push(one),
            Err(error) => failed.push((wish.name.as_str(), Err(error))),
        }
    }
    // A wrong name costs no time.
    if !failed.is_empty() {
        return failed;
    }
    let targets: Vec<Target<'_>> = prepared.iter().zip(wishes).map(|((definition, lock), wish)| target(definition, lock, wish)).collect();
    let mirrors = OnceCell::new();
    let cached = caches::take(context, &shared, &context.user_settings.caches, &targets);
    let built = silo_build::build(&BuildContext { layers: Some(&cached), ..workshop(context, &shared, &mirrors) }, &targets);
    drop(targets);
    let finish = |(((definition, lock), built), wish): (((Definition, Lock), _), &'a InstallOptions)| {
        let made = make_from(context, &shared, &definition, lock, (wish, Some(built)));
        (wish.name.as_str(), made.and_then(|made| record(context, &shared, &definition, made, &wish.with)))
    };
    prepared.into_iter().zip(built).zip(wishes).map(finish).collect()
}

/// A built tool, before it is recorded.
pub(super) struct BuiltTool {
    pub lock: Lock,
    pub built: Built,
    version: String,
}

impl BuiltTool {
    /// Returns its image.
    pub(super) fn image(&self) -> ImageId {
        self.built.image
    }
}

/// Builds a tool from a lock; if files of a built-in lock are not available any more, from a new lock.
pub(super) fn make(
    context: &Context<'_>,
    shared: &SharedLock,
    definition: &Definition,
    lock: Lock,
    wish: &InstallOptions,
) -> Result<BuiltTool, Error> {
    make_from(context, shared, definition, lock, (wish, None))
}

/// Like [`make`], with the result of a first build, if there was one.
fn make_from(
    context: &Context<'_>,
    shared: &SharedLock,
    definition: &Definition,
    mut lock: Lock,
    (wish, first): (&InstallOptions, Option<Result<Built, silo_build::Error>>),
) -> Result<BuiltTool, Error> {
    let mut version = check_version(definition, &lock)?;
    let first = match first {
        // The build learns the client.
        None | Some(Err(silo_build::Error::NoClient { .. })) => build(context, shared, definition, &lock, wish),
        Some(first) => first,
    };
    let built = match first {
        Err(silo_build::Error::Fetch(error)) if error.is_gone() => {
            let gone = silo_build::Error::Fetch(error);
            if definition.found.origin != Origin::BuiltIn || wish.resolving == Resolving::Frozen || definition.lock_file.is_some() {
                return Err(Error::Gone { tool: wish.name.clone(), source: Box::new(gone) });
            }
            let text =
                format!("{}: the mirrors no longer have its locked packages; making a new lock from today's signed index", wish.name);
            (context.sink)(Event::Note { text });
            lock = lock_files::resolve(context, definition)?;
            version = check_version(definition, &lock)?;
            build(context, shared, definition, &lock, wish)?
        }
        other => other?,
    };
    if let Some(outputs) = built.outputs.as_ref().filter(|outputs| !outputs.is_empty() || definition.lock_file.is_some()) {
        let pins = lock.steps.entry(definition.arch).or_default();
        if definition.found.recipe.versions.is_empty() {
            pins.clear();
        }
        // The pins of other versions are kept.
        pins.extend(outputs.iter().map(|(step, output)| (*step, output.clone())));
    }
    if definition.found.origin != Origin::BuiltIn || definition.lock_file.is_some() {
        built.note(definition.arch, &mut lock);
    }
    Ok(BuiltTool { lock, built, version })
}

/// Records a built tool as installed: its GC root, changed files, its record.
pub(super) fn record(
    context: &Context<'_>,
    shared: &SharedLock,
    definition: &Definition,
    made: BuiltTool,
    with: &[Change],
) -> Result<Outcome, Error> {
    let BuiltTool { lock, built, version } = made;
    let tool = Installed { name: definition.tool().to_owned(), version, image: built.image };
    let before = record::get(context.home, &tool.name).ok().flatten();
    let fresh = before.as_ref() != Some(&tool);
    if fresh {
        keep(context, shared, &tool)?;
    }
    let mut staged = Staged::default();
    staged.put(context.view(), definition, &lock)?;
    let changes: Vec<Change> = with.iter().cloned().chain(staged.changes(context.home)?).collect();
    journal::commit(context.home, &changes).map_err(lock_files::Error::from)?;
    if fresh {
        record::put(context.home, &tool)?;
    }
    learn(context, &definition.found.recipe, tool.image);
    match before {
        // A shim always starts the tool of this machine's platform.
        _ if definition.arch != Arch::host() => {}
        None => shims::installed(context, &tool.name)?,
        Some(_) => shims::installed_again(context, &tool.name)?,
    }
    Ok(Outcome { arch: definition.arch, tool, fresh, made: built.made })
}

/// Learns the host names of ecosystems that the tool may reach in a run; failures are reported.
pub(super) fn learn(context: &Context<'_>, recipe: &Recipe, image: ImageId) {
    // A client that is asked connects to its registry; one of another platform does not run here.
    if context.transport.is_offline() || context.home.arch() != Arch::host() {
        return;
    }
    let root = [image::root(context.home, image)];
    network::learn_new(&context.learning(recipe, &root), &context.settings.ecosystems, &recipe.run.network, context.sink);
}

/// Makes a new lock of a tool from today's indexes, and installs that.
pub fn upgrade(context: &Context<'_>, name: &str) -> Result<Outcome, Error> {
    let context = &context.without_project();
    let definition = definition::of(context.view(), name, Scope::Global)?;
    let shared = store_lock::share(context.store).map_err(|source| Error::Store(Box::new(source)))?;
    let lock = lock_files::resolve(context, &definition)?;
    let wish = InstallOptions { name: name.to_owned(), version: None, resolving: Resolving::Allowed, anew: false, with: Vec::new() };
    let made = make(context, &shared, &definition, lock, &wish)?;
    record(context, &shared, &definition, made, &[])
}

fn target<'a>(definition: &'a Definition, lock: &'a Lock, wish: &InstallOptions) -> Target<'a> {
    Target { frozen: wish.resolving == Resolving::Frozen, anew: wish.anew, ..definition.target(lock) }
}

fn build(
    context: &Context<'_>,
    shared: &SharedLock,
    definition: &Definition,
    lock: &Lock,
    wish: &InstallOptions,
) -> Result<Built, silo_build::Error> {
    let mirrors = OnceCell::new();
    let once = || {
        let target = target(definition, lock, wish);
        let cached = caches::take(context, shared, &context.user_settings.caches, &[target]);
        silo_build::build(&BuildContext { layers: Some(&cached), ..workshop(context, shared, &mirrors) }, &[target]).remove(0)
    };
    match once() {
        Err(silo_build::Error::NoClient { name, .. }) if (context.learn_client)(context, definition.tool(), &name) => once(),
        built => built,
    }
}

/// Returns the build context of a command.
pub(super) fn workshop<'a>(context: &'a Context<'_>, shared: &'a SharedLock, mirrors: &'a OnceCell<Mirrors>) -> BuildContext<'a> {
    BuildContext {
        home: context.home,
        store: context.store,
        lock: shared,
        transport: context.transport,
        mirrors: mirrors.get_or_init(|| context.mirrors()),
        program: &context.program,
        now: context.now,
        outside: &context.outside,
        ecosystems: &context.settings.ecosystems,
        jobs: context.jobs,
        sink: context.sink,
        stop: context.stop,
        keep_failed: context.keep_failed,
        check: context.check,
        machine: context.machine,
        no_machine: context.no_machine.as_ref(),
        records_owners: !silo_launch::has_range() && context.home.arch() == Arch::host(),
        second_machine: context.second_machine,
        counted_machine: context.counted_machine,
        pinned: None,
        realisations: &context.realisations,
        max_step_bytes: step_bytes(context),
        pool: context.pool,
        layers: None,
    }
}

fn step_bytes(context: &Context<'_>) -> u64 {
    let size = context.user_settings.build.max_step_size.as_ref();
    // The settings were validated when they were read.
    size.and_then(|size| units::parse_size(size).ok()).unwrap_or(MAX_STEP_BYTES)
}

/// Returns the version of a tool in a lock, if it matches the requested one.
pub(super) fn check_version(definition: &Definition, lock: &Lock) -> Result<String, Error> {
    let available = lock_files::version(definition, lock);
    match &definition.version {
        Some(wanted) if !is_of(&available, wanted) => {
            let others = definition.found.recipe.versions.keys().cloned().collect();
            Err(Error::Version { tool: definition.tool().to_owned(), wanted: wanted.clone(), available, others })
        }
        _ => Ok(available),
    }
}

/// Removes a tool; returns true if it was installed.
pub fn uninstall(context: &Context<'_>, name: &str) -> Result<bool, Error> {
    let store = |source: Box<dyn std::error::Error + Send + Sync>| Error::Store(source);
    let shared = store_lock::share(context.store).map_err(|error| store(Box::new(error)))?;
    let was = record::remove(context.home, name)?;
    shims::remove_unused(&context.home.of_platform(Arch::host()), &context.found_as)?;
    let root = root_name(context, name).map_err(store)?;
    // A GC root without a record is left from a killed uninstall.
    let had = gc_roots::remove(context.store, &shared, &root).map_err(|error| store(Box::new(error)))?;
    Ok(was || had)
}

fn root_name(context: &Context<'_>, tool: &str) -> Result<RootName, Box<dyn std::error::Error + Send + Sync>> {
    Ok(super::root_name::of(context.home, TOOL, tool)?)
}

fn keep(context: &Context<'_>, shared: &SharedLock, tool: &Installed) -> Result<(), Error> {
    let image = image::get(context.home, tool.image).map_err(silo_build::Error::Image)?;
    let root = Root { images: [tool.image.digest()].into(), layers: image.map(|image| image.layer_set()).unwrap_or_default() };
    let name = root_name(context, &tool.name).map_err(Error::Store)?;
    gc_roots::put(context.store, shared, &name, &root).map_err(|error| Error::Store(Box::new(error)))
}
