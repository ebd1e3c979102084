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
pub mod known_secrets;

mod dpkg_status;
mod error;
mod git_config;
mod java_keystore;
mod scheduler;
mod scrub;
mod select_packages;

mod conffiles;
mod script;

mod changes;
mod stack;

mod archive_members;
mod word_kinds;

mod ca_certificates;
pub mod cause;
pub mod check;
pub mod host_network;
mod realisation_writer;

pub mod budget;
pub mod pool;

mod known_layers;

pub mod places;

mod context;
mod log;
mod split;

mod generated_secrets;
mod workdir;

mod chain;

mod step_root;

mod host_name;
mod run_facts;
mod state;

mod compare;
mod fixed_output;
mod locked_secrets;
pub mod network;
mod record_files;
mod recording;

pub mod away;
mod dpkg_database;
mod packages;
mod worker_roots;

pub mod worker;

mod step;

mod base_image;
mod command;
mod configure;

pub mod inputs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use petgraph::graph::NodeIndex;
use petgraph::visit::IntoNodeReferences;
use silo_store::compose;
use silo_store::digest::{Digest, LayerId};

use silo_base::event::{self, Activity, Event};
use silo_base::home::Home;
use silo_base::system::Arch;
use silo_base::thread;
use silo_model::derivation::{self, Derivation, DrvId};
use silo_model::lock::{self, Lock, Secret, Sha256, StepOutput};
use silo_model::plan::{self, Plan, Step};

use context::{bring, environment_of, project_key, realised_as};
use image::ImageId;
use packages::{Arrived, Item};
use scheduler::{Order, Walk, WorkerClass, Workers};
use select_packages::Unpacked;
use state::State;

/// Limit on the sets of pins that are looked up for one image; a recipe with two pinned steps and ten versions has 100.
const MAX_PIN_SETS: usize = 256;

pub use context::{BuildContext, FindMachine, LayerSource, NoMachine, PATH, Target};
pub use error::Error;
pub use fixed_output::output_keys;
pub use realisation_writer::RealisationWriter;
pub use step::SPEC;

/// Result of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The image.
    pub image: ImageId,
    /// Number of layers that were made, not counting reused ones.
    pub made: usize,
    /// Outputs of the steps that the lock must pin. `None` if the image was cached.
    pub outputs: Option<BTreeMap<Sha256, StepOutput>>,
    /// Layers of all other steps, for the lock. `None` if the image was cached, if its steps only recorded owners, or if the
    /// lock may not change.
    pub layers: Option<BTreeMap<Sha256, Sha256>>,
    /// Secrets and identities that the image lacks, for the lock. `None` if the lock may not change.
    pub secrets: Option<BTreeMap<String, Secret>>,
}

impl Built {
    /// Notes the layers of steps and the absent secrets in a lock.
    pub fn note(&self, arch: Arch, lock: &mut Lock) {
        if let Some(layers) = &self.layers {
            lock.layers.insert(arch, layers.clone());
        }
        if let Some(secrets) = &self.secrets {
            lock.secrets.remove(&arch);
            if !secrets.is_empty() {
                lock.secrets.insert(arch, secrets.clone());
            }
        }
    }
}

/// Builds the images of tools in one walk. Each tool succeeds or fails separately.
pub fn build(ctx: &BuildContext<'_>, targets: &[Target<'_>]) -> Vec<Result<Built, Error>> {
    let pins = targets.iter().filter_map(|target| target.lock.layers.get(&target.arch)).flatten();
    let pinned: BTreeMap<Digest, LayerId> = pins.map(|(step, layer)| (step.0, LayerId::new(layer.0))).collect();
    let ctx = &BuildContext { pinned: Some(&pinned), ..*ctx };
    let mut built: Vec<Option<Result<Built, Error>>> = targets.iter().map(|target| found(ctx, target)).collect();
    let missing: Vec<usize> = (0..targets.len()).filter(|at| built[*at].is_none()).collect();
    if !missing.is_empty() {
        let wanted: Vec<Target<'_>> = missing.iter().map(|at| targets[*at]).collect();
        for (at, result) in missing.into_iter().zip(walked(ctx, &wanted)) {
            built[at] = Some(result);
        }
    }
    let none = || Err(Error::fault("a tool of the plan has no result"));
    built.into_iter().map(|result| result.unwrap_or_else(none)).collect()
}

/// Finds the image of an earlier build with the same inputs; reads a few small files.
pub fn known(home: &Home, target: &Target<'_>) -> Option<ImageId> {
    let find = |outputs: Option<&BTreeMap<Sha256, StepOutput>>| {
        let of = |owners| image::made_by(home, image_drv(target, outputs, owners));
        of(Vec::new()).or_else(|| if silo_launch::has_range() { None } else { of(recorded(target)) })
    };
    find(None).or_else(|| possible_pins(target).iter().find_map(|pins| find(Some(pins))))
}

/// Returns the sets of pins that the steps of a recipe can have.
///
/// The lock of a recipe also pins the steps of its other versions. A pin names its command, and the key follows only from the layers below,
/// which are unknown before a build. At most one of the sets is that of a build of this definition.
fn possible_pins(target: &Target<'_>) -> Vec<BTreeMap<Sha256, StepOutput>> {
    let Some(pins) = target.lock.steps.get(&target.arch) else { return Vec::new() };
    let mut sets = vec![BTreeMap::new()];
    for step in target.recipe.steps.iter().filter(|step| step.project || !step.network.is_empty()) {
        let command = step.shown();
        let of_step: Vec<_> = pins.iter().filter(|(_, output)| output.command == command).collect();
        let with = |set: &BTreeMap<_, _>, (key, output): &(&Sha256, &StepOutput)| {
            let mut set = set.clone();
            set.insert(**key, (*output).clone());
            set
        };
        sets = sets.iter().flat_map(|set| of_step.iter().map(|pin| with(set, pin))).take(MAX_PIN_SETS).collect();
    }
    sets
}

/// Distinguishes the derivation of an image with steps that only recorded owners, if the lock does not confirm all their layers. With other
/// layers in the lock it is another derivation, so they are compared.
fn recorded(target: &Target<'_>) -> Vec<(Digest, Digest)> {
    let pins = target.lock.layers.get(&target.arch).into_iter().flatten();
    let mark = Digest::of(b"recorded owners");
    std::iter::once((mark, mark)).chain(pins.map(|(step, layer)| (step.0, layer.0))).collect()
}

/// Returns the derivation of an image, which follows from the definition and the lock.
pub fn derivation_of(target: &Target<'_>) -> DrvId {
    image_drv(target, None, Vec::new())
}

/// Returns the derivation that names the inputs: the image's, without the project. The same lock has the same inputs in every project.
pub fn derivation_of_inputs(target: &Target<'_>) -> DrvId {
    derivation_of(&Target { project: None, ..*target })
}

/// Returns the image of an earlier build with the same inputs, or the error if the lock has nothing for this architecture.
fn found(ctx: &BuildContext<'_>, target: &Target<'_>) -> Option<Result<Built, Error>> {
    let arch = target.arch;
    if target.lock.packages_of(arch).is_none() && !target.lock.images.contains_key(&arch) {
        return Some(Err(Error::NoPackages { recipe: target.recipe.name.clone(), arch }));
    }
    let image = if target.anew || ctx.check.is_some() || lacks_layers(target) { None } else { known(ctx.home, target) };
    // A new lock names the secrets of a cached image, too.
    let secrets = |id| {
        let image = image::get(ctx.home, id).ok().flatten().filter(|_| !target.frozen)?;
        locked_secrets::of(ctx, &image::root(ctx.home, id), &image.layers).ok()
    };
    image.map(|image| Ok(Built { image, made: 0, outputs: None, layers: None, secrets: secrets(image) }))
}

/// True if the lock is to note layers and has none, although a step has one. The image may be of a command that failed after its build.
fn lacks_layers(target: &Target<'_>) -> bool {
    let is_noted = target.lock.layers.get(&target.arch).is_some_and(|layers| !layers.is_empty());
    let has_step = target.recipe.steps.iter().any(|step| !step.project && step.network.is_empty());
    target.notes_layers && !target.frozen && !is_noted && has_step && silo_launch::has_range()
}

/// Returns the derivation of an image; `outputs` replaces the lock's pins of the steps, and `owners` distinguishes it from others.
fn image_drv(target: &Target<'_>, outputs: Option<&BTreeMap<Sha256, StepOutput>>, owners: Vec<(Digest, Digest)>) -> DrvId {
    let arch = target.arch;
    let packages = || target.lock.packages_of(arch).into_iter().flat_map(BTreeMap::values);
    let layers = || target.lock.images.get(&arch).into_iter().flat_map(|base| &base.layers);
    let outputs = outputs.or_else(|| target.lock.steps.get(&arch));
    // An image with project files belongs to that project alone, even if another project has a copy of its lock.
    let project = target.project.filter(|_| target.recipe.steps.iter().any(|step| step.project));
    let project = project.map(|project| project_key(project).unwrap_or_default());
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
        outputs: outputs.into_iter().flatten().map(|(drv, output)| (drv.0, output.layer.0)).chain(owners).collect(),
        project,
    })
    .id()
}

/// Output of a node of the plan.
enum NodeOutput {
    Package(Arc<Unpacked>),
    State(Arc<State>),
    Image(Built),
}

/// Builds the tools without a cached image.
fn walked(ctx: &BuildContext<'_>, targets: &[Target<'_>]) -> Vec<Result<Built, Error>> {
    let packages: Vec<_> = targets.iter().map(packages::of).collect();
    let tools = targets.iter().zip(&packages);
    let plan = plan::plan(tools.map(|(target, packages)| plan::Tool { lock: target.lock, packages, steps: &target.recipe.steps }));
    bring_all(ctx, &plan, targets);
    let items: BTreeMap<NodeIndex, Item<'_>> = plan
        .graph
        .node_references()
        .filter_map(|(node, step)| match step {
            Step::Package { name, package, epoch } => Some((node, Item::new(ctx, node, name, package, *epoch))),
            _ => None,
        })
        .collect();
    let mut missing: Vec<&Item<'_>> = items.values().filter(|item| item.known.is_none()).collect();
    missing.sort_by_key(|item| rank(item.package));
    // The same answer as for `missing`: another silo may realise a package in between.
    let awaited: BTreeSet<Sha256> = missing.iter().map(|item| item.package.sha256).collect();
    let order = |step: &Step| match step {
        Step::Package { package, .. } => {
            Order { class: WorkerClass::Work, rank: rank(package), awaited: awaited.contains(&package.sha256) }
        }
        Step::Configure { .. } | Step::Command { .. } => Order { class: WorkerClass::Step, rank: 0, awaited: false },
        Step::Database { .. } | Step::Base { .. } | Step::Image { .. } => Order { class: WorkerClass::Work, rank: 0, awaited: false },
    };
    let unpacking = Unpacking::new(ctx, missing.len());
    let names: Vec<&str> = targets.iter().map(|target| target.recipe.name.as_str()).collect();
    let whole = event::next_id();
    let total = Some(plan.graph.node_count() as u64);
    (ctx.sink)(Event::Started { id: whole, kind: Activity::Build, name: names.join(", "), total });
    let parts = AtomicUsize::new(0);
    let files = Arrived::default();
    let walk: Walk<'_, Step, NodeOutput, Error> = Walk::new(&plan.graph, ctx.stop, order);
    let feed = |walk: &Walk<'_, Step, NodeOutput, Error>| {
        let arrived = |node: NodeIndex, path| {
            files.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(node, path);
            walk.release(node);
        };
        if let Err(error) = packages::fetch(ctx, &missing, &|| walk.is_over(), &arrived) {
            let here = files.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut lost = missing.iter().map(|item| item.node).filter(|node| !here.contains_key(node));
            // One download error is enough; the other missing files are abandoned without an error of their own.
            if let Some(first) = lost.next() {
                walk.fail(first, error);
            }
            lost.for_each(|node| walk.abandon(node));
        }
    };
    let workers = Workers { work: ctx.jobs, steps: ctx.pool.map_or(ctx.jobs, |away| away.jobs().max(ctx.jobs)) };
    let over = AtomicBool::new(false);
    let work = |walk: &Walk<'_, Step, NodeOutput, Error>, node: NodeIndex| {
        ctx.check_stop()?;
        let state = |node: NodeIndex| match walk.given(node) {
            Some(NodeOutput::State(state)) => Ok(Arc::clone(state)),
            _ => Err(Error::fault("a step of the plan began before the layers below it")),
        };
        let given = match &plan.graph[node] {
            Step::Package { .. } => {
                let file = files.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&node).cloned();
                let item = items.get(&node).ok_or_else(|| Error::fault("a package of the plan has no archive"))?;
                let (unpacked, made) = packages::realise(ctx, item, file.as_deref())?;
                if made {
                    ctx.realisations.add(item.drv.id().digest(), unpacked.record.layer, None);
                    unpacking.done();
                }
                NodeOutput::Package(unpacked)
            }
            Step::Configure { tier, epoch, packages, below, answers } => {
                let unpacked = packages.iter().map(|node| match walk.given(*node) {
                    Some(NodeOutput::Package(unpacked)) => Ok(Arc::clone(unpacked)),
                    _ => Err(Error::fault("a configure step began before its packages were unpacked")),
                });
                let below = below.map(state).transpose()?;
                let packages = unpacked.collect::<Result<_, _>>()?;
                let task = configure::Task { tier: *tier, epoch: *epoch, packages, below: below.as_deref(), answers };
                NodeOutput::State(Arc::new(configure::realise(ctx, task)?))
            }
            Step::Database { epoch, below } => NodeOutput::State(Arc::new(dpkg_database::realise(ctx, *epoch, &*state(*below)?)?)),
            Step::Base { target } => NodeOutput::State(Arc::new(base_image::realise(ctx, &targets[*target])?)),
            Step::Command { step, target, below } => {
                let later = if ctx.pool.is_some() { chain::later_steps(&plan.graph, node) } else { Vec::new() };
                let task = command::Task { step, target: &targets[*target], below: &*state(*below)?, later };
                NodeOutput::State(Arc::new(command::realise(ctx, &task)?))
            }
            Step::Image { target, below, without } => {
                let without = without.map(state).transpose()?;
                NodeOutput::Image(image_of(ctx, &targets[*target], &*state(*below)?, without.as_deref(), unpacking.count())?)
            }
        };
        let done = parts.fetch_add(1, Ordering::Relaxed) + 1;
        (ctx.sink)(Event::Progress { id: whole, done: done as u64 });
        Ok(given)
    };
    let outcome = std::thread::scope(|scope| {
        // If no thread can be started, all realisations are recorded at the end.
        let recording = thread::beside(scope, || ctx.realisations.record_now_and_then(ctx.store, ctx.lock, &over));
        let outcome = walk.run(workers, feed, work);
        over.store(true, Ordering::Relaxed);
        if let Ok(recording) = recording {
            recording.thread().unpark();
        }
        outcome
    });
    (ctx.sink)(Event::Finished { id: whole });
    if unpacking.count() < unpacking.total {
        (ctx.sink)(Event::Finished { id: unpacking.activity });
    }
    if let Err(source) = ctx.realisations.record(ctx.store, ctx.lock) {
        let text = format!("the results could not be recorded, so the next build makes them again: {source}");
        (ctx.sink)(Event::Warning { text });
    }
    match outcome {
        Ok(outcome) => results(ctx, &plan, outcome),
        Err(refused) => {
            std::iter::once(Err(refused.into())).chain(std::iter::repeat_with(|| Err(Error::Shared))).take(targets.len()).collect()
        }
    }
}

/// Brings the layers of all packages and of all layers of base images, as far as the source of layers has them. The derivations of other
/// steps follow from the layers below them.
fn bring_all(ctx: &BuildContext<'_>, plan: &Plan, targets: &[Target<'_>]) {
    if ctx.layers.is_none() && ctx.pool.is_none() {
        return;
    }
    let packages = plan.graph.node_weights().filter_map(|step| match step {
        Step::Package { package, .. } => Some(Derivation::Package(derivation::Package { deb: package.sha256.0 }).id().digest()),
        _ => None,
    });
    let bases = targets.iter().flat_map(base_image::derivations);
    let missing: Vec<Digest> = packages.chain(bases).filter(|key| realised_as(ctx, key).is_none()).collect();
    bring(ctx, &missing);
}

/// Orders packages: early tiers first, and in a tier the largest first, because a large package that starts late would keep one processor
/// busy at the end.
fn rank(package: &lock::Package) -> u64 {
    ((package.tier as u64) << 48) + (u64::from(u32::MAX).saturating_sub(package.size))
}

/// Groups the outputs of the nodes by tool. A tool without an image gets all errors of its dependencies.
fn results(ctx: &BuildContext<'_>, plan: &Plan, outcome: scheduler::Outcome<NodeOutput, Error>) -> Vec<Result<Built, Error>> {
    let mut given = outcome.given;
    let mut failed: BTreeMap<NodeIndex, Error> = outcome.failed.into_iter().collect();
    let images: Vec<Option<Built>> = plan
        .images
        .iter()
        .map(|node| match given[node.index()].take() {
            Some(NodeOutput::Image(built)) => Some(built),
            _ => None,
        })
        .collect();
    let mut results = Vec::with_capacity(images.len());
    for (image, node) in images.into_iter().zip(&plan.images) {
        results.push(match image {
            Some(built) => Ok(built),
            None if ctx.stop.load(Ordering::Relaxed) => Err(Error::Stopped),
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
fn image_of(ctx: &BuildContext<'_>, target: &Target<'_>, below: &State, without: Option<&State>, unpacked: usize) -> Result<Built, Error> {
    let image = image::Image {
        arch: target.arch,
        epoch: target.lock.epoch,
        layers: match without {
            Some(without) => without.layers().into_iter().chain(below.of_steps().iter().copied()).collect(),
            None => below.layers(),
        },
        command: target.recipe.run.command.clone(),
        arguments: target.recipe.run.arguments.clone(),
        env: environment_of(target),
        foreign: without.unwrap_or(below).foreign().into_iter().map(str::to_owned).collect(),
    };
    let is_confirmed = |(step, layer): (&Sha256, &Sha256)| ctx.pin(&step.0) == Some(LayerId::new(layer.0));
    let owners = if ctx.records() && !below.made_layers.iter().all(is_confirmed) { recorded(target) } else { Vec::new() };
    let drv = image_drv(target, Some(&below.outputs), owners);
    let ground = below.take_root().filter(|_| without.is_none());
    let base = ground.as_ref().and_then(step_root::StepRoot::base);
    let id = ctx.activity(Activity::Compose, &target.recipe.name, None, |id| {
        let progress = |done| (ctx.sink)(Event::Progress { id, done });
        image::put(ctx.home, ctx.store, &image, drv, |root| match &base {
            Some(base) => {
                let wanted = compose::Wanted { layers: &image.layers, into: root };
                compose::recompose(ctx.store, ctx.lock, base, wanted, &progress)
            }
            None => compose::compose(ctx.store, ctx.lock, &image.layers, root, &progress),
        })
    })?;
    let layers = (!ctx.records() && !target.frozen).then(|| below.made_layers.clone());
    let configured = &without.unwrap_or(below).configured;
    let secrets = (!target.frozen).then(|| locked_secrets::of(ctx, &image::root(ctx.home, id), configured)).transpose()?;
    Ok(Built { image: id, made: below.made + unpacked, outputs: Some(below.outputs.clone()), layers, secrets })
}

/// Progress of unpacking a plan's packages.
struct Unpacking<'a> {
    ctx: &'a BuildContext<'a>,
    activity: u64,
    total: usize,
    done: AtomicUsize,
}

impl<'a> Unpacking<'a> {
    fn new(ctx: &'a BuildContext<'a>, total: usize) -> Unpacking<'a> {
        let activity = event::next_id();
        if total > 0 {
            let started = Event::Started { id: activity, kind: Activity::Unpack, name: "packages".to_owned(), total: Some(total as u64) };
            (ctx.sink)(started);
        }
        Unpacking { ctx, activity, total, done: AtomicUsize::new(0) }
    }

    fn done(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        (self.ctx.sink)(Event::Progress { id: self.activity, done: done as u64 });
        if done == self.total {
            (self.ctx.sink)(Event::Finished { id: self.activity });
        }
    }

    fn count(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}
