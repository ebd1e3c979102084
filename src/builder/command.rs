//! Command steps: run a command of a recipe or a project on the layers so far, and capture its changes as a layer.
//!
//! Without network and project files the derivation determines the result. With either it does not, so the lock pins the result: the first
//! run records it, and every later run must give the same. A lock is untrusted and could name a layer of another project. So a pinned layer
//! is taken from the store only if the same step made it on this machine, and for a step with project files in the same project. Otherwise
//! the step is run, and must give the pinned layer.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use silo_store::capture::{self, Capture};
use silo_store::difference::differences;
use silo_store::digest::{Digest, LayerId};
use silo_store::manifest::Record as Manifest;

use silo_base::event::Activity;
use silo_base::system::Arch;
use silo_launch::opened::{Links, Opened};
use silo_launch::spec::{Access, Identity, Limits, Mount, Spec, Stdio};
use silo_model::derivation::{self, Derivation};
use silo_model::lock::{Sha256, StepOutput};
use silo_model::recipe::Step;

use super::bench::{Bench, ours};
use super::check;
use super::configure::{filter, refuse_secrets};
use super::ground::Ground;
use super::state::State;
use super::{Error, Target, Workshop, network, read_index, realised, realised_as};

/// Mount point of the project in a step, wherever the project is on the host.
const PROJECT: &str = "/workspace";

/// Most differences that an error lists.
const SHOWN: usize = 20;

/// Environment variables with the same value in every step.
const FIXED: [(&str, &str); 8] = [
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    // Fixed hash seeds: otherwise the order of sets differs from run to run and may show in output files.
    ("PYTHONHASHSEED", "0"),
    ("TZ", "UTC"),
    // Caches do not belong in an image; /tmp is dropped.
    ("XDG_CACHE_HOME", "/tmp/cache"),
    ("npm_config_cache", "/tmp/cache/npm"),
    ("PIP_ROOT_USER_ACTION", "ignore"),
];

/// A command to run.
pub(super) struct Task<'a> {
    pub step: &'a Step,
    pub target: &'a Target<'a>,
    pub below: &'a State,
}

/// Returns the derivation of a step on these layers.
pub(super) fn derivation(step: &Step, target: &Target<'_>, layers: Vec<LayerId>) -> derivation::Step {
    let mut env: Vec<(String, String)> = FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    env.push(("SOURCE_DATE_EPOCH".to_owned(), target.lock.epoch.to_string()));
    let own = super::environment_of(target);
    env.extend(own.iter().filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())));
    env.extend(step.env.clone());
    // The last value of a variable wins.
    let env: std::collections::BTreeMap<String, String> = env.into_iter().collect();
    derivation::Step {
        arch: Arch::host(),
        argv: step.run.clone(),
        env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
        epoch: target.lock.epoch,
        layers,
        network: step.network.clone(),
        project: step.project,
    }
}

/// Returns the state with the layer of a command's changes; runs the command if the layer is unknown.
pub(super) fn realise(shop: &Workshop<'_>, task: &Task<'_>) -> Result<State, Error> {
    let mut state = task.below.handed_on();
    let fields = derivation(task.step, task.target, state.layers());
    let fixed = fields.is_fixed_output();
    let drv = Derivation::Step(fields.clone());
    let key = Sha256(drv.id().digest());
    let pinned = task.target.lock.steps.get(&Arch::host()).and_then(|steps| steps.get(&key)).map(|output| LayerId::new(output.layer.0));
    let pinned = pinned.filter(|_| fixed && !task.target.anew);
    let command = task.step.title();
    if fixed && pinned.is_none() && task.target.frozen {
        return Err(Error::NotPinned { command });
    }
    let own = |layer: LayerId| output_key(task, &key.0, layer);
    let known = || match pinned {
        // A lock may name any layer. Accept it only if this very step made it on this machine, or makes it now.
        Some(layer) => own(layer).and_then(|key| realised_as(shop, &key)).filter(|made| *made == layer),
        // Without a pin there is nothing to reuse: another project's files, or the network on another day, may give another result.
        None if fixed => None,
        None => realised(shop, &drv),
    };
    let make = |state: &mut State| -> Result<LayerId, Error> {
        let ours = ours(shop, &key.0)?;
        if let Some(layer) = known() {
            return Ok(layer);
        }
        shop.check_stop()?;
        let mut bench = Bench::new(shop, drv.id())?;
        let mut ground = Ground::new(shop, &fields.layers, state.take_ground())?;
        let made = shop.activity(Activity::Step, &command, None, |_| run(shop, task, &fields, &drv, &mut bench, &mut ground))?;
        if let Some(pinned) = pinned.filter(|pinned| *pinned != made) {
            return Err(other_output(shop, command.clone(), pinned, made));
        }
        shop.notes.add(key.0, made, Some(ours));
        if let Some(own) = own(made).filter(|_| fixed) {
            shop.notes.add(own, made, None);
        }
        state.ground = Mutex::new(Some(ground));
        state.made += 1;
        Ok(made)
    };
    let layer = match known() {
        Some(layer) => layer,
        None => make(&mut state)?,
    };
    if let Some(check) = shop.check {
        check::wait_for_another_second();
        let mut bench = Bench::other(shop, drv.id(), check)?;
        let mut ground = Ground::new(shop, &fields.layers, None)?;
        let again = format!("{command}, again");
        let second = shop.activity(Activity::Step, &again, None, |_| run(shop, task, &fields, &drv, &mut bench, &mut ground))?;
        check.compare(shop, &command, (layer, second), &state.present)?;
    }
    if fixed {
        let size = read_index(shop, layer)?.bytes();
        state.outputs.insert(key, StepOutput { layer: Sha256(layer.digest()), size, command: task.step.shown() });
    }
    state.over.push(layer);
    state.steps += 1;
    Ok(state)
}

/// Returns the key of the fact that a step made this layer. For a step with project files the key includes the project.
fn output_key(task: &Task<'_>, drv: &Digest, layer: LayerId) -> Option<Digest> {
    let project = match (task.step.project, task.target.project) {
        (false, _) => String::new(),
        (true, project) => super::project_key(project?)?,
    };
    Some(Digest::of(format!("silo fixed output 1\n{drv}\n{layer}\n{project}\n").as_bytes()))
}

/// Describes how the output differs from the lock.
fn other_output(shop: &Workshop<'_>, command: String, pinned: LayerId, made: LayerId) -> Error {
    let indexes = read_index(shop, pinned).and_then(|old| Ok((old, read_index(shop, made)?)));
    let told = match indexes {
        Ok((old, new)) => {
            let all = differences(&old, &new);
            let more = all.len().saturating_sub(SHOWN);
            let mut lines: Vec<String> = all.iter().take(SHOWN).map(|difference| format!("  {difference}")).collect();
            if more > 0 {
                lines.push(format!("  and {more} more"));
            }
            lines.join("\n")
        }
        Err(_) => format!("  the differing paths are unknown, because the pinned layer is not on this machine; the new layer is {made}"),
    };
    Error::OtherOutput { command, pinned, made, told }
}

fn run(
    shop: &Workshop<'_>,
    task: &Task<'_>,
    fields: &derivation::Step,
    drv: &Derivation,
    bench: &mut Bench,
    ground: &mut Ground,
) -> Result<LayerId, Error> {
    let began = Instant::now();
    // Keep it open until the step ends, so that the checked directory is the one that is mounted.
    let project = if fields.project { Some(open_project(task)?) } else { None };
    let mut spec = spec(shop, fields, bench, ground, project.as_ref());
    if let Some(reach) = network::reach(shop, task.target.recipe, &fields.network, &spec.root.lower)? {
        reach.furnish(&mut spec);
    }
    bench.tells = true;
    bench.launch(shop, ground, &task.step.title(), &spec)?;
    let settled = refuse_secrets(&bench.upper()).and_then(|()| bench.settle(fields.epoch));
    let captured = settled.and_then(|()| {
        ground.lower(|lower| {
            let what = Capture { upper: &bench.upper(), lower, epoch: fields.epoch, filter: &filter };
            capture::capture(shop.store, shop.lock, &what).map_err(|source| Error::store("capturing the step's changes", source))
        })
    });
    let captured = captured.map_err(|error| bench.refused(shop, ground, &spec, error))?;
    // Listing all lower layers in each step of a long chain would be quadratic; the step below lists its own.
    let inputs = match task.below.steps {
        0 => fields.layers.as_slice(),
        _ => &fields.layers[fields.layers.len() - 1..],
    };
    let manifest = Manifest {
        derivation: drv.id().to_string(),
        name: format!("step {}", task.step.shown()),
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        created: shop.created(),
        inputs: inputs.iter().map(LayerId::to_string).collect(),
        packages: Vec::new(),
    };
    Ok(captured.stage.commit(&manifest, shop.lock).map_err(|source| Error::store("committing the step's changes", source))?.id)
}

fn open_project(task: &Task<'_>) -> Result<Opened, Error> {
    let project = task.target.project.ok_or_else(|| Error::NoProject { command: task.step.title() })?;
    Opened::open(project, Links::Refuse).map_err(|source| Error::Project { command: task.step.title(), source })
}

fn spec(shop: &Workshop<'_>, fields: &derivation::Step, bench: &Bench, ground: &Ground, project: Option<&Opened>) -> Spec {
    let mounts = project.map(|project| Mount { host: project.host(), guest: PROJECT.into(), access: Access::ReadOnly });
    let cwd = if project.is_some() { PathBuf::from(PROJECT) } else { PathBuf::from("/root") };
    let env = fields.env.iter().filter_map(|pair| pair.split_once('='));
    Spec {
        machine: None,
        root: bench.spec_root(shop, ground),
        mounts: mounts.into_iter().collect(),
        dirs: Vec::new(),
        files: Vec::new(),
        read_only: Vec::new(),
        overlays: Vec::new(),
        hidden: Vec::new(),
        removable: Vec::new(),
        argv: fields.argv.iter().map(Into::into).collect(),
        env: env.map(|(name, value)| (name.into(), value.into())).collect(),
        cwd,
        hostname: "silo".to_owned(),
        identity: Identity::Root,
        stdio: Stdio::Log { path: bench.log.clone() },
        network: None,
        limits: Limits::default(),
    }
}
