//! Context of a build, and the lookups in the store that every kind of step makes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use silo_store::digest::{Digest, LayerId};
use silo_store::flock::SharedLock;
use silo_store::index::Index;
use silo_store::layout::Store;
use silo_store::realisation::Realisation;

use silo_base::event::{self, Activity, Event, Sink};
use silo_base::grant::Grant;
use silo_base::home::Home;
use silo_base::identity::DirectoryId;
use silo_base::system::Arch;
use silo_fetch::mirrors::Mirrors;
use silo_fetch::transport::Transport;
use silo_launch::spec::{MachineTime, VmFiles};
use silo_model::derivation::Derivation;
use silo_model::lock::Lock;
use silo_model::recipe::Recipe;

use super::check::Check;
use super::error::Error;
use super::host_network::HostNetwork;
use super::known_layers::Destination;
use super::places::Away;
use super::realisation_writer::RealisationWriter;

/// PATH of a Debian root, the default in an image's environment.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A source of layers that other machines made, such as a binary cache.
pub trait LayerSource: Sync {
    /// Brings the layers of these derivations into the store, and returns those that it brought. A derivation with a layer has this layer
    /// or none: another one does not get into the store. It reports a failure, which counts as none.
    fn bring(&self, derivations: &[(Digest, Option<LayerId>)]) -> BTreeMap<Digest, LayerId>;
}

/// Context of a build.
#[derive(Clone, Copy)]
pub struct BuildContext<'a> {
    /// The home that images are stored in.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// Shared lock on the store: nothing is collected while it is held.
    pub lock: &'a SharedLock,
    /// Transport for downloads.
    pub transport: &'a Transport,
    /// The mirrors.
    pub mirrors: &'a Mirrors,
    /// Path of the silo binary, which is re-executed for each step (see [`silo_launch`]).
    pub program: &'a Path,
    /// Current time in seconds since 1970. It goes into logs and manifests, never into the bytes of a layer.
    pub now: i64,
    /// The host's network configuration, for steps with network.
    pub outside: &'a HostNetwork,
    /// Host names of package ecosystems, as given by the settings.
    pub ecosystems: &'a BTreeMap<String, Vec<Grant>>,
    /// Number of worker threads of each class.
    pub jobs: usize,
    /// Receiver of events.
    pub sink: Sink<'a>,
    /// Set when the user stops the build.
    pub stop: &'a AtomicBool,
    /// True if the root of a failed step is kept for `silo debug`.
    pub keep_failed: bool,
    /// Results of the reproducibility check, if enabled. Each step then runs twice.
    pub check: Option<&'a Check>,
    /// The VM to run steps in; `None` runs them natively. The result is the same.
    pub machine: Option<&'a VmFiles>,
    /// The reason why there is no VM, if the steps need one because the home is for another platform than this machine's.
    pub no_machine: Option<&'a NoMachine>,
    /// True if the system gives the caller no range of ids: a native step then only records owners.
    pub records_owners: bool,
    /// The VM that repeats a step whose recorded owners gave another layer than the locked one, if there is one.
    pub second_machine: Option<&'a VmFiles>,
    /// Finds the VM of steps that count instructions in place of time.
    pub counted_machine: FindMachine<'a>,
    /// The layers of steps that the locks pin, by derivation; [`crate::build`] sets them.
    pub pinned: Option<&'a BTreeMap<Digest, LayerId>>,
    /// Finished realisations that are not yet written to the store.
    pub realisations: &'a RealisationWriter,
    /// Limit on the bytes of files that a step may write.
    pub max_step_bytes: u64,
    /// The machines that launch steps; a step runs here if it needs something of this machine.
    pub pool: Option<&'a Away>,
    /// A source of layers, which is asked before a layer is made.
    pub layers: Option<&'a dyn LayerSource>,
}

impl BuildContext<'_> {
    pub(super) fn created(&self) -> u64 {
        u64::try_from(self.now).unwrap_or(0)
    }

    /// True if steps only record owners.
    pub(super) fn records(&self) -> bool {
        self.records_owners && self.machine.is_none()
    }

    /// Returns the layer that a lock pins for a step.
    pub(super) fn pin(&self, step: &Digest) -> Option<LayerId> {
        self.pinned.and_then(|pinned| pinned.get(step).copied())
    }

    /// Fails if steps of the home's platform can run neither on a pool nor here.
    pub(super) fn check_machine(&self) -> Result<(), Error> {
        if self.pool.is_some_and(|pool| pool.runs(self.home.arch())) { Ok(()) } else { self.check_machine_here() }
    }

    /// Fails if steps of the home's platform need a VM here and there is none.
    pub(super) fn check_machine_here(&self) -> Result<(), Error> {
        let arch = self.home.arch();
        if arch == Arch::host() || self.machine.is_some_and(|machine| machine.arch == arch) {
            return Ok(());
        }
        let NoMachine { why, hint } = self.no_machine.cloned().unwrap_or_else(|| NoMachine { why: "there is none".to_owned(), hint: None });
        Err(Error::NoMachine { arch, why, hint })
    }

    /// Returns the VM of a step that counts instructions in place of time.
    pub(super) fn counted_machine(&self) -> Result<VmFiles, Error> {
        let machine = (self.counted_machine)().map_err(|NoMachine { why, hint }| Error::NotCounted { why, hint })?;
        Ok(VmFiles { cpus: 1, snapshots: None, time: MachineTime::Counted, ..machine })
    }

    pub(super) fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Runs `work` as one activity.
    pub(super) fn activity<T>(&self, kind: Activity, name: &str, total: Option<u64>, work: impl FnOnce(u64) -> T) -> T {
        event::activity(self.sink, kind, name, total, work)
    }
}

/// Finds a VM when a step needs it.
pub type FindMachine<'a> = &'a (dyn Fn() -> Result<VmFiles, NoMachine> + Sync);

/// The reason why there is no VM that a step needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoMachine {
    /// The reason.
    pub why: String,
    /// The command to type next.
    pub hint: Option<String>,
}

/// A tool to build.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The architecture of its image; that of the context's home.
    pub arch: Arch,
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The exact inputs.
    pub lock: &'a Lock,
    /// The project whose files the steps may see.
    pub project: Option<&'a Path>,
    /// True if an output that the lock does not pin is an error.
    pub frozen: bool,
    /// True if pinned steps run again and get new pins.
    pub anew: bool,
    /// True if a lock without the layers of its steps gets them also from the steps of an image that exists.
    pub notes_layers: bool,
}

/// Returns the key of a project whose files a step may see. Steps of different projects have different keys.
pub(super) fn project_key(project: &Path) -> Option<String> {
    let id = DirectoryId::of(project).ok()?;
    // File systems reuse inode numbers; then the path distinguishes the directories.
    Some(if id.is_lasting() { id.key() } else { format!("{} {}", id.key(), project.display()) })
}

/// Returns the environment of a tool's image: the base image's, if it has one, overridden by the recipe's.
pub(super) fn environment_of(target: &Target<'_>) -> BTreeMap<String, String> {
    let base = target.lock.images.get(&target.arch);
    let base = base.into_iter().flat_map(|base| &base.env).filter_map(|pair| pair.split_once('='));
    environment(base.map(|(name, value)| (name.to_owned(), value.to_owned())).chain(target.recipe.run.env.clone()))
}

/// Returns the environment of an image: a default PATH, overridden by the given variables. The last value of a variable wins.
pub(super) fn environment(said: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    [("PATH".to_owned(), PATH.to_owned())].into_iter().chain(said).collect()
}

/// Returns the layer that a derivation made, if the store still has it, or if another machine made it.
pub(super) fn realised(ctx: &BuildContext<'_>, drv: &Derivation) -> Option<LayerId> {
    realised_or_brought(ctx, drv.id().digest())
}

/// Like [`realised`], by the digest of the derivation's id.
pub(super) fn realised_or_brought(ctx: &BuildContext<'_>, key: Digest) -> Option<LayerId> {
    realised_as(ctx, &key).or_else(|| brought(ctx, key))
}

/// Returns the layer of a derivation from the source of layers, if it has one.
pub(super) fn brought(ctx: &BuildContext<'_>, key: Digest) -> Option<LayerId> {
    let layer = bring(ctx, &[key]).remove(&key)?;
    is_warm(ctx, &layer).then_some(layer)
}

/// Brings the layers of derivations from the pool's store and from the source of layers, all together, so that a few requests answer for
/// all.
pub(super) fn bring(ctx: &BuildContext<'_>, keys: &[Digest]) -> BTreeMap<Digest, LayerId> {
    if ctx.check.is_some() || keys.is_empty() || ctx.stop.load(Ordering::Relaxed) {
        return BTreeMap::new();
    }
    // A layer with recorded owners, or of a build without the lock, may differ from the one that the lock names.
    let mut wanted: Vec<(Digest, Option<LayerId>)> = keys.iter().map(|key| (*key, ctx.pin(key))).collect();
    let mut brought = bring_from_pool(ctx, &wanted);
    wanted.retain(|(key, _)| !brought.contains_key(key));
    if let Some(source) = ctx.layers.filter(|_| !wanted.is_empty()) {
        brought.extend(source.bring(&wanted));
    }
    brought
}

fn bring_from_pool(ctx: &BuildContext<'_>, wanted: &[(Digest, Option<LayerId>)]) -> BTreeMap<Digest, LayerId> {
    let Some((away, pool)) = ctx.pool.and_then(|away| Some((away, away.usable()?))) else { return BTreeMap::new() };
    let work = ctx.home.work();
    let into = Destination { work: &work, store: ctx.store, lock: ctx.lock, stop: ctx.stop };
    let warn = |text| (ctx.sink)(Event::Warning { text });
    let brought = away.known.bring(pool, into, wanted, &warn);
    for (key, layer) in &brought {
        ctx.realisations.add(*key, *layer, None);
    }
    if !brought.is_empty() {
        let text = format!("{} layers fetched from {}", brought.len(), pool.places().join(", "));
        (ctx.sink)(Event::Note { text });
    }
    brought.into_iter().collect()
}

/// Looks up a realisation by its key.
pub(super) fn realised_as(ctx: &BuildContext<'_>, key: &Digest) -> Option<LayerId> {
    if let Some(layer) = ctx.realisations.get(key) {
        return Some(layer);
    }
    // A broken or unreadable realisation counts as missing: the step runs again.
    match silo_store::realisation::get(ctx.store, key) {
        Ok(Realisation::Known(layer)) if ctx.store.has(&layer) && is_warm(ctx, &layer) => Some(layer),
        _ => None,
    }
}

/// Unpacks the tree of a compressed layer, since steps read it. Returns false if that fails; then the step runs again.
pub(super) fn is_warm(ctx: &BuildContext<'_>, layer: &LayerId) -> bool {
    silo_store::compression::warm(ctx.store, ctx.lock, std::slice::from_ref(layer), &|_| {}).is_ok()
}

/// Reads the index of a layer.
pub(super) fn read_index(ctx: &BuildContext<'_>, layer: LayerId) -> Result<Index, Error> {
    silo_store::layer::read_index(ctx.store, &layer).map_err(|source| Error::store(format!("reading the index of layer {layer}"), source))
}
