//! The build: turns the plans of tools into layers, and the layers into images.
//!
//! [`build`] walks one plan for all tools, from inputs to images ([`walk`]). Downloads run in parallel; each package is unpacked as soon as
//! its file is complete. A tier is configured as soon as its packages are unpacked, in parallel with the unpacking of the next tier. Then
//! the command steps run, and the images are composed. Realised nodes are reused, so a build with nothing to do reads a few small files and
//! ends.
//!
//! **Invariant.** A realisation is written only after the layer's bytes are synced to disk, and an image is published by one rename. So a
//! build that is killed at any moment leaves either nothing or a complete result.

pub mod image;

mod error;
mod keystore;
mod script;
mod scripted;
mod scrub;
mod status;
mod walk;

pub mod check;

pub mod budget;

mod bench;
mod notes;
mod roots;

mod ground;

mod halves;

mod state;

mod made_up;
mod packages;

mod configure;

pub mod network;

mod base;
mod command;
mod database;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use petgraph::graph::NodeIndex;
use petgraph::visit::IntoNodeReferences;
use silo_store::compose;
use silo_store::digest::{Digest, LayerId};
use silo_store::index::Index;
use silo_store::layout::Store;
use silo_store::lock::SharedLock;
use silo_store::realisation::Realisation;

use image::ImageId;
use silo_base::event::{self, Activity, Event, Sink};
use silo_base::home::Home;
use silo_base::identity::DirectoryId;
use silo_base::system::Arch;
use silo_base::thread;
use silo_fetch::mirrors::Mirrors;
use silo_fetch::transport::Transport;
use silo_launch::spec::Machine;
use silo_model::derivation::{self, Derivation, DrvId};
use silo_model::lock::{self, Lock, Sha256, StepOutput};
use silo_model::plan::{self, Plan, Step};
use silo_model::recipe::Recipe;

use check::Check;
use packages::{Arrived, Item};
use scripted::Unpacked;
use state::State;
use walk::{Class, Order, Walk, Workers};

pub use bench::SPEC;
pub use error::Error;
pub use notes::Notes;

/// PATH of a Debian root, the default in an image's environment.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Context of a build.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
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
    pub outside: &'a network::Outside,
    /// Host names of package ecosystems, as given by the settings.
    pub ecosystems: &'a BTreeMap<String, Vec<String>>,
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
    pub machine: Option<&'a Machine>,
    /// Finished realisations that are not yet written to the store.
    pub notes: &'a Notes,
    /// Limit on the bytes of files that a step may write.
    pub max_step_bytes: u64,
}

impl Workshop<'_> {
    fn created(&self) -> u64 {
        u64::try_from(self.now).unwrap_or(0)
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Stopped) } else { Ok(()) }
    }

    /// Runs `work` as one activity.
    fn activity<T>(&self, kind: Activity, name: &str, total: Option<u64>, work: impl FnOnce(u64) -> T) -> T {
        let id = event::next_id();
        (self.sink)(Event::Started { id, kind, name: name.to_owned(), total });
        let done = work(id);
        (self.sink)(Event::Finished { id });
        done
    }
}

/// A tool to build.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
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
}

/// Result of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The image.
    pub image: ImageId,
    /// Number of layers that were made, not counting reused ones.
    pub made: usize,
    /// Outputs of the steps that the lock must pin. `None` if the image was cached.
    pub outputs: Option<BTreeMap<Sha256, StepOutput>>,
}

/// Builds the images of tools for the host's architecture, in one walk. Each tool succeeds or fails separately.
pub fn build(shop: &Workshop<'_>, targets: &[Target<'_>]) -> Vec<Result<Built, Error>> {
    let mut built: Vec<Option<Result<Built, Error>>> = targets.iter().map(|target| found(shop, target)).collect();
    let missing: Vec<usize> = (0..targets.len()).filter(|at| built[*at].is_none()).collect();
    if !missing.is_empty() {
        let wanted: Vec<Target<'_>> = missing.iter().map(|at| targets[*at]).collect();
        for (at, result) in missing.into_iter().zip(walked(shop, &wanted)) {
            built[at] = Some(result);
        }
    }
    built.into_iter().map(|result| result.unwrap_or(Err(Error::Worker))).collect()
}

/// Finds the image of an earlier build with the same inputs; reads two small files.
pub fn known(home: &Home, target: &Target<'_>) -> Option<ImageId> {
    image::made_by(home, image_drv(target, None))
}

/// Returns the image of an earlier build with the same inputs, or the error if the lock has nothing for this architecture.
fn found(shop: &Workshop<'_>, target: &Target<'_>) -> Option<Result<Built, Error>> {
    let arch = Arch::host();
    if target.lock.packages_of(arch).is_none() && !target.lock.images.contains_key(&arch) {
        return Some(Err(Error::NoPackages { recipe: target.recipe.name.clone(), arch }));
    }
    let image = if target.anew || shop.check.is_some() { None } else { known(shop.home, target) };
    image.map(|image| Ok(Built { image, made: 0, outputs: None }))
}

/// Returns the derivation of an image; `outputs` replaces the lock's pins of the steps.
fn image_drv(target: &Target<'_>, outputs: Option<&BTreeMap<Sha256, StepOutput>>) -> DrvId {
    let arch = Arch::host();
    let packages = || target.lock.packages_of(arch).into_iter().flat_map(BTreeMap::values);
    let layers = || target.lock.images.get(&arch).into_iter().flat_map(|base| &base.layers);
    let outputs = outputs.or_else(|| target.lock.steps.get(&arch));
    // An image with project files belongs to that project alone, even if another project has a copy of its lock.
    let project = target.project.filter(|_| target.recipe.steps.iter().any(|step| step.project));
    let project = project.map(|project| format!("project={}", project_key(project).unwrap_or_default()));
    Derivation::Image(derivation::Image {
        arch,
        epoch: target.lock.epoch,
        debs: packages().map(|package| package.sha256.0).chain(layers().map(|layer| layer.sha256.0)).collect(),
        command: target.recipe.run.command.clone(),
        arguments: target.recipe.run.arguments.clone(),
        env: environment_of(target),
        tiers: packages().map(|package| package.tier.name().to_owned()).chain(layers().map(|_| derivation::Blob::tier())).collect(),
        steps: target.recipe.steps.iter().map(|step| Derivation::Step(command::derivation(step, target, Vec::new())).id()).collect(),
        answers: target.lock.asked.debconf.clone(),
        outputs: outputs.into_iter().flatten().map(|(drv, output)| format!("{}={}", drv.0, output.layer.0)).chain(project).collect(),
    })
    .id()
}

/// Returns the key of a project whose files a step may see. Steps of different projects have different keys.
fn project_key(project: &Path) -> Option<String> {
    let id = DirectoryId::of(project).ok()?;
    // File systems reuse inode numbers; then the path distinguishes the directories.
    Some(if id.is_lasting() { id.key() } else { format!("{} {}", id.key(), project.display()) })
}

/// Output of a node of the plan.
enum Given {
    Package(Arc<Unpacked>),
    State(Arc<State>),
    Image(Built),
}

/// Builds the tools without a cached image.
fn walked(shop: &Workshop<'_>, targets: &[Target<'_>]) -> Vec<Result<Built, Error>> {
    let packages: Vec<_> = targets.iter().map(packages::of).collect();
    let tools = targets.iter().zip(&packages);
    let plan = plan::plan(tools.map(|(target, packages)| plan::Tool { lock: target.lock, packages, steps: &target.recipe.steps }));
    let items: BTreeMap<NodeIndex, Item<'_>> = plan
        .graph
        .node_references()
        .filter_map(|(node, step)| match step {
            Step::Package { name, package, epoch } => Some((node, Item::new(shop, node, name, package, *epoch))),
            _ => None,
        })
        .collect();
    let mut missing: Vec<&Item<'_>> = items.values().filter(|item| item.known.is_none()).collect();
    missing.sort_by_key(|item| rank(item.package));
    let order = |step: &Step| match step {
        Step::Package { package, .. } => {
            let drv = Derivation::Package(derivation::Package { deb: package.sha256.0 });
            Order { class: Class::Work, rank: rank(package), awaited: realised(shop, &drv).is_none() }
        }
        Step::Configure { .. } | Step::Command { .. } => Order { class: Class::Step, rank: 0, awaited: false },
        Step::Database { .. } | Step::Base { .. } | Step::Image { .. } => Order { class: Class::Work, rank: 0, awaited: false },
    };
    let unpacking = Unpacking::new(shop, missing.len());
    let names: Vec<&str> = targets.iter().map(|target| target.recipe.name.as_str()).collect();
    let whole = event::next_id();
    let total = Some(plan.graph.node_count() as u64);
    (shop.sink)(Event::Started { id: whole, kind: Activity::Build, name: names.join(", "), total });
    let parts = AtomicUsize::new(0);
    let files = Arrived::default();
    let walk: Walk<'_, Step, Given, Error> = Walk::new(&plan.graph, shop.stop, order);
    let feed = |walk: &Walk<'_, Step, Given, Error>| {
        let arrived = |node: NodeIndex, path| {
            files.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(node, path);
            walk.release(node);
        };
        if let Err(error) = packages::fetch(shop, &missing, &|| walk.is_over(), &arrived) {
            let here = files.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut lost = missing.iter().map(|item| item.node).filter(|node| !here.contains_key(node));
            // One download error is enough; the other missing files are abandoned without an error of their own.
            if let Some(first) = lost.next() {
                walk.fail(first, error);
            }
            lost.for_each(|node| walk.abandon(node));
        }
    };
    let workers = Workers { work: shop.jobs, steps: shop.jobs };
    let over = AtomicBool::new(false);
    let work = |walk: &Walk<'_, Step, Given, Error>, node: NodeIndex| {
        shop.check_stop()?;
        let state = |node: NodeIndex| match walk.given(node) {
            Some(Given::State(state)) => Ok(Arc::clone(state)),
            _ => Err(Error::Worker),
        };
        let given = match &plan.graph[node] {
            Step::Package { .. } => {
                let file = files.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&node).cloned();
                let item = items.get(&node).ok_or(Error::Worker)?;
                let (unpacked, made) = packages::realise(shop, item, file.as_deref())?;
                if made {
                    shop.notes.add(item.drv.id().digest(), unpacked.record.layer, None);
                    unpacking.done();
                }
                Given::Package(unpacked)
            }
            Step::Configure { tier, epoch, packages, below, answers } => {
                let unpacked = packages.iter().map(|node| match walk.given(*node) {
                    Some(Given::Package(unpacked)) => Ok(Arc::clone(unpacked)),
                    _ => Err(Error::Worker),
                });
                let below = below.map(state).transpose()?;
                let packages = unpacked.collect::<Result<_, _>>()?;
                let task = configure::Task { tier: *tier, epoch: *epoch, packages, below: below.as_deref(), answers };
                Given::State(Arc::new(configure::realise(shop, task)?))
            }
            Step::Database { epoch, below } => Given::State(Arc::new(database::realise(shop, *epoch, &*state(*below)?)?)),
            Step::Base { target } => Given::State(Arc::new(base::realise(shop, &targets[*target])?)),
            Step::Command { step, target, below } => {
                let task = command::Task { step, target: &targets[*target], below: &*state(*below)? };
                Given::State(Arc::new(command::realise(shop, &task)?))
            }
            Step::Image { target, below, without } => {
                let without = without.map(state).transpose()?;
                Given::Image(image_of(shop, &targets[*target], &*state(*below)?, without.as_deref(), unpacking.count())?)
            }
        };
        let done = parts.fetch_add(1, Ordering::Relaxed) + 1;
        (shop.sink)(Event::Progress { id: whole, done: done as u64 });
        Ok(given)
    };
    let outcome = std::thread::scope(|scope| {
        // If no thread can be started, all realisations are recorded at the end.
        let recording = thread::beside(scope, || shop.notes.record_now_and_then(shop.store, shop.lock, &over));
        let outcome = walk.run(workers, feed, work);
        over.store(true, Ordering::Relaxed);
        if let Ok(recording) = recording {
            recording.thread().unpark();
        }
        outcome
    });
    (shop.sink)(Event::Finished { id: whole });
    if unpacking.count() < unpacking.total {
        (shop.sink)(Event::Finished { id: unpacking.activity });
    }
    if let Err(source) = shop.notes.record(shop.store, shop.lock) {
        let text = format!("the results could not be recorded, so the next build makes them again: {source}");
        (shop.sink)(Event::Warning { text });
    }
    match outcome {
        Ok(outcome) => results(shop, &plan, outcome),
        Err(refused) => {
            std::iter::once(Err(refused.into())).chain(std::iter::repeat_with(|| Err(Error::Shared))).take(targets.len()).collect()
        }
    }
}

/// Orders packages: early tiers first, and in a tier the largest first, because a large package that starts late would keep one processor
/// busy at the end.
fn rank(package: &lock::Package) -> u64 {
    ((package.tier as u64) << 48) + (u64::from(u32::MAX).saturating_sub(package.size))
}

/// Groups the outputs of the nodes by tool. A tool without an image gets all errors of its dependencies.
fn results(shop: &Workshop<'_>, plan: &Plan, outcome: walk::Outcome<Given, Error>) -> Vec<Result<Built, Error>> {
    let mut given = outcome.given;
    let mut failed: BTreeMap<NodeIndex, Error> = outcome.failed.into_iter().collect();
    let images: Vec<Option<Built>> = plan
        .images
        .iter()
        .map(|node| match given[node.index()].take() {
            Some(Given::Image(built)) => Some(built),
            _ => None,
        })
        .collect();
    let mut results = Vec::with_capacity(images.len());
    for (image, node) in images.into_iter().zip(&plan.images) {
        results.push(match image {
            Some(built) => Ok(built),
            None if shop.stop.load(Ordering::Relaxed) => Err(Error::Stopped),
            None => {
                let reversed = petgraph::visit::Reversed(&plan.graph);
                let mut below = petgraph::visit::Dfs::new(reversed, *node);
                let mut errors = Vec::new();
                while let Some(input) = below.next(reversed) {
                    errors.extend(failed.remove(&input));
                }
                // If no error is left, it is reported with another tool that has the same dependency.
                Err(Error::of_all(errors))
            }
        });
    }
    results
}

/// Composes an image. `without` is the state without packages that only the steps need; the image gets it plus the steps' layers.
fn image_of(shop: &Workshop<'_>, target: &Target<'_>, below: &State, without: Option<&State>, unpacked: usize) -> Result<Built, Error> {
    let image = image::Image {
        arch: Arch::host(),
        epoch: target.lock.epoch,
        layers: match without {
            Some(without) => without.layers().into_iter().chain(below.of_steps().iter().copied()).collect(),
            None => below.layers(),
        },
        command: target.recipe.run.command.clone(),
        arguments: target.recipe.run.arguments.clone(),
        env: environment_of(target),
    };
    let drv = image_drv(target, Some(&below.outputs));
    let ground = below.take_ground().filter(|_| without.is_none());
    let id = shop.activity(Activity::Compose, &target.recipe.name, None, |id| {
        let progress = |done| (shop.sink)(Event::Progress { id, done });
        image::put(shop.home, shop.store, &image, drv, |root| match &ground {
            Some(ground) => compose::recompose(shop.store, shop.lock, &ground.base(), &image.layers, root, &progress),
            None => compose::compose(shop.store, shop.lock, &image.layers, root, &progress),
        })
    })?;
    Ok(Built { image: id, made: below.made + unpacked, outputs: Some(below.outputs.clone()) })
}

/// Progress of unpacking a plan's packages.
struct Unpacking<'a> {
    shop: &'a Workshop<'a>,
    activity: u64,
    total: usize,
    done: AtomicUsize,
}

impl<'a> Unpacking<'a> {
    fn new(shop: &'a Workshop<'a>, total: usize) -> Unpacking<'a> {
        let activity = event::next_id();
        if total > 0 {
            let started = Event::Started { id: activity, kind: Activity::Unpack, name: "packages".to_owned(), total: Some(total as u64) };
            (shop.sink)(started);
        }
        Unpacking { shop, activity, total, done: AtomicUsize::new(0) }
    }

    fn done(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        (self.shop.sink)(Event::Progress { id: self.activity, done: done as u64 });
        if done == self.total {
            (self.shop.sink)(Event::Finished { id: self.activity });
        }
    }

    fn count(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}

/// Returns the environment of a tool's image: the base image's, if it has one, overridden by the recipe's.
fn environment_of(target: &Target<'_>) -> Vec<String> {
    let base = target.lock.images.get(&Arch::host());
    let base = base.into_iter().flat_map(|base| &base.env).filter_map(|pair| pair.split_once('='));
    environment(base.map(|(name, value)| (name.to_owned(), value.to_owned())).chain(target.recipe.run.env.clone()))
}

/// Returns the environment of an image: a default PATH, overridden by the given variables. The last value of a variable wins.
fn environment(said: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let env: BTreeMap<String, String> = [("PATH".to_owned(), PATH.to_owned())].into_iter().chain(said).collect();
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Returns the layer that a derivation made, if the store still has it.
fn realised(shop: &Workshop<'_>, drv: &Derivation) -> Option<LayerId> {
    realised_as(shop, &drv.id().digest())
}

/// Looks up a realisation by its key.
fn realised_as(shop: &Workshop<'_>, key: &Digest) -> Option<LayerId> {
    if let Some(layer) = shop.notes.get(key) {
        return Some(layer);
    }
    // A broken or unreadable realisation counts as missing: the step runs again.
    match silo_store::realisation::get(shop.store, key) {
        Ok(Realisation::Known(layer)) if shop.store.has(&layer) && is_warm(shop, &layer) => Some(layer),
        _ => None,
    }
}

/// Unpacks the tree of a compressed layer, since steps read it. Returns false if that fails; then the step runs again.
fn is_warm(shop: &Workshop<'_>, layer: &LayerId) -> bool {
    silo_store::forms::warm(shop.store, shop.lock, std::slice::from_ref(layer), &|_| {}).is_ok()
}

/// Reads the index of a layer.
fn read_index(shop: &Workshop<'_>, layer: LayerId) -> Result<Index, Error> {
    silo_store::layer::read_index(shop.store, &layer).map_err(|source| Error::store(format!("reading the index of layer {layer}"), source))
}
