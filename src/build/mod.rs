//! Building: the plans of some tools into layers, and the layers into images.
//!
//! [`build`] walks one plan for all tools from its inputs up ([`walk`]). Files are fetched together; each package is
//! unpacked as soon as its file is whole; a tier is configured as soon as its packages are there, while those of the next
//! are unpacked; then the steps run, and what is left is put together. What is realised already is not made again, so a
//! build with nothing to do looks at a few small files and ends.
//!
//! **Invariant.** A realisation is written only after the layer's bytes are synced to disk, and an image is
//! published by one rename: a build that is killed at any moment leaves nothing or the whole.

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

use crate::derivation::{self, Derivation, DrvId};
use crate::event::{self, Activity, Event, Sink};
use crate::fetch::mirrors::Mirrors;
use crate::fetch::transport::Transport;
use crate::home::Home;
use crate::identity::DirectoryId;
use crate::image::{self, ImageId};
use crate::launch::spec::Machine;
use crate::lock::{self, Lock, Sha256, StepOutput};
use crate::plan::{self, Plan, Step};
use crate::recipe::Recipe;
use crate::system::Arch;
use crate::thread;

use check::Check;
use packages::{Arrived, Item};
use scripted::Unpacked;
use state::State;
use walk::{Class, Order, Walk, Workers};

pub use bench::SPEC;
pub use error::Error;
pub use notes::Notes;

/// The search path of Debian's root; the image's own environment carries it.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a build works with.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    /// The home that the image goes to.
    pub home: &'a Home,
    /// Its layer store.
    pub store: &'a Store,
    /// The right to use the store: nothing is collected while it is held.
    pub lock: &'a SharedLock,
    /// The way to the mirrors.
    pub transport: &'a Transport,
    /// The mirrors.
    pub mirrors: &'a Mirrors,
    /// The program itself, which is started anew for each step (see [`crate::launch`]).
    pub program: &'a Path,
    /// Seconds since 1970 now; it goes into logs' and layers' records, never into their bytes.
    pub now: i64,
    /// What the machine knows of the network, for steps that may reach it.
    pub outside: &'a network::Outside,
    /// Which names package ecosystems are, where the settings say so.
    pub ecosystems: &'a BTreeMap<String, Vec<String>>,
    /// Processors to use.
    pub jobs: usize,
    /// Who is told what happens.
    pub sink: Sink<'a>,
    /// Set when the user wants to stop.
    pub stop: &'a AtomicBool,
    /// Whether what a failed step left is kept for a look into it.
    pub keep_failed: bool,
    /// Where every step is run twice, what is found out by that.
    pub check: Option<&'a Check>,
    /// The virtual machine that steps run in; by default they run natively. What they come to is the same.
    pub machine: Option<&'a Machine>,
    /// What has been made and is to be recorded.
    pub notes: &'a Notes,
    /// Most bytes of files that a step may write.
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

/// One tool to build.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// What it is made of.
    pub recipe: &'a Recipe,
    /// The exact inputs.
    pub lock: &'a Lock,
    /// The project whose files its steps may see.
    pub project: Option<&'a Path>,
    /// Whether what the lock does not pin is an error.
    pub frozen: bool,
    /// Whether the steps that the lock pins are run again, and pinned anew.
    pub anew: bool,
}

/// What a build did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The image.
    pub image: ImageId,
    /// Layers that were made, and not found.
    pub made: usize,
    /// What the steps that the lock must pin came to; nothing where nothing had to be looked at.
    pub outputs: Option<BTreeMap<Sha256, StepOutput>>,
}

/// Builds the images of some tools for the machine's own architecture, in one walk. Tools fail one by one.
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

/// Finds the image that the same inputs made before, looking at two small files.
pub fn known(home: &Home, target: &Target<'_>) -> Option<ImageId> {
    image::made_by(home, image_drv(target, None))
}

/// Finds the image that the same inputs made before, or why there can be none.
fn found(shop: &Workshop<'_>, target: &Target<'_>) -> Option<Result<Built, Error>> {
    let arch = Arch::host();
    if target.lock.packages_of(arch).is_none() && !target.lock.images.contains_key(&arch) {
        return Some(Err(Error::NoPackages { recipe: target.recipe.name.clone(), arch }));
    }
    let image = if target.anew || shop.check.is_some() { None } else { known(shop.home, target) };
    image.map(|image| Ok(Built { image, made: 0, outputs: None }))
}

/// The derivation of an image; `outputs` are what its steps came to, where that is not what the lock says.
fn image_drv(target: &Target<'_>, outputs: Option<&BTreeMap<Sha256, StepOutput>>) -> DrvId {
    let arch = Arch::host();
    let packages = || target.lock.packages_of(arch).into_iter().flat_map(BTreeMap::values);
    let layers = || target.lock.images.get(&arch).into_iter().flat_map(|base| &base.layers);
    let outputs = outputs.or_else(|| target.lock.steps.get(&arch));
    // An image with files of a project is that project's alone, whoever has a copy of its lock.
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

/// Names the project whose files a step has seen; no other project's step can have seen them.
fn project_key(project: &Path) -> Option<String> {
    let id = DirectoryId::of(project).ok()?;
    // Inode numbers are used again, and then the path tells two directories apart.
    Some(if id.is_lasting() { id.key() } else { format!("{} {}", id.key(), project.display()) })
}

/// What a node of the plan gives.
enum Given {
    Package(Arc<Unpacked>),
    State(Arc<State>),
    Image(Built),
}

/// Walks the plan of tools whose images are not there.
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
            // One error says it all; what else did not arrive has no error of its own.
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
        // Where there is no thread for it, everything is recorded at the end.
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
        let text = format!("what was built is there, but could not be noted, so it will be built again: {source}");
        (shop.sink)(Event::Warning { text });
    }
    match outcome {
        Ok(outcome) => results(shop, &plan, outcome),
        Err(refused) => {
            std::iter::once(Err(refused.into())).chain(std::iter::repeat_with(|| Err(Error::Shared))).take(targets.len()).collect()
        }
    }
}

/// Small packages of early tiers come first, but for the largest ones, which would keep one processor busy at the end.
fn rank(package: &lock::Package) -> u64 {
    ((package.tier as u64) << 48) + (u64::from(u32::MAX).saturating_sub(package.size))
}

/// Sorts what the nodes gave by tool; a tool whose image is not there has all the errors that were in its way.
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
                // Where nothing is left, it was told with another tool that needs it too.
                Err(Error::of_all(errors))
            }
        });
    }
    results
}

/// Puts an image together; `without` is what it has besides the steps' layers, where they ran on more.
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

/// The unpacking of a plan's packages, as it is shown.
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

/// The environment of a tool's image: that of the image it is made of, where it is, and the recipe's over it.
fn environment_of(target: &Target<'_>) -> Vec<String> {
    let base = target.lock.images.get(&Arch::host());
    let base = base.into_iter().flat_map(|base| &base.env).filter_map(|pair| pair.split_once('='));
    environment(base.map(|(name, value)| (name.to_owned(), value.to_owned())).chain(target.recipe.run.env.clone()))
}

/// The environment of an image: a search path, and over it what is said, the last word about each name.
fn environment(said: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let env: BTreeMap<String, String> = [("PATH".to_owned(), PATH.to_owned())].into_iter().chain(said).collect();
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Looks a derivation's realisation up, if its layer is still there.
fn realised(shop: &Workshop<'_>, drv: &Derivation) -> Option<LayerId> {
    realised_as(shop, &drv.id().digest())
}

/// The same by the name of the realisation.
fn realised_as(shop: &Workshop<'_>, key: &Digest) -> Option<LayerId> {
    if let Some(layer) = shop.notes.get(key) {
        return Some(layer);
    }
    // A broken or unreadable note is as good as none: the step is run again.
    match silo_store::realisation::get(shop.store, key) {
        Ok(Realisation::Known(layer)) if shop.store.has(&layer) && is_warm(shop, &layer) => Some(layer),
        _ => None,
    }
}

/// Makes the tree of a compressed layer again, since steps read it; one that cannot be is made anew by its step.
fn is_warm(shop: &Workshop<'_>, layer: &LayerId) -> bool {
    silo_store::forms::warm(shop.store, shop.lock, std::slice::from_ref(layer), &|_| {}).is_ok()
}

/// Reads the entries of a layer.
fn read_index(shop: &Workshop<'_>, layer: LayerId) -> Result<Index, Error> {
    silo_store::layer::read_index(shop.store, &layer).map_err(|source| Error::store(format!("reading the index of layer {layer}"), source))
}
