//! Command steps: run a command of a recipe or a project on the layers so far, and capture its changes as a layer.
//!
//! Without network and project files the derivation determines the result. With either it does not, so the lock pins the result: the first
//! run records it, and every later run must give the same. A lock is untrusted and could name a layer of another project. So a pinned layer
//! is taken from the store only if the same step made it on this machine, and for a step with project files in the same project. Otherwise
//! the step is run, and must give the pinned layer.

use std::fs;
use std::path::{Path, PathBuf};

use silo_store::digest::{Digest, LayerId};

use silo_launch::open_checked::{Links, OpenedPath};
use silo_launch::spec::{Abi, Access, Mount, Root, Seed, Spec, Stdio, Upper};
use silo_model::derivation::{self, Derivation, DrvId, Repeats};
use silo_model::lock::{Sha256, StepOutput};
use silo_model::recipe::Step;

use super::context::{BuildContext, Target, brought, environment_of, project_key, read_index, realised_as, realised_or_brought};
use super::error::Error;
use super::recording::{Output, Pin, Recording};
use super::state::State;
use super::step::{self, Prepared, StepRun};
use super::workdir::Workdir;
use super::{fixed_output, scrub};

/// Mount point of the project in a step, wherever the project is on the host.
const PROJECT: &str = "/workspace";

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
    /// The steps after it that may run in its action on a worker.
    pub later: Vec<&'a Step>,
}

/// Returns the derivation of a step on these layers.
pub(super) fn derivation(step: &Step, target: &Target<'_>, layers: Vec<LayerId>) -> derivation::Step {
    let fixed = FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let epoch = ("SOURCE_DATE_EPOCH".to_owned(), target.lock.epoch.to_string());
    // The last value of a variable wins.
    let env = fixed.chain([epoch]).chain(environment_of(target)).chain(step.env.clone()).collect();
    derivation::Step {
        arch: target.arch,
        argv: step.run.clone(),
        env,
        epoch: target.lock.epoch,
        layers,
        network: step.network.clone(),
        project: step.project,
        repeats: step.repeats,
    }
}

/// Returns the seed of a step's random numbers, if they are fixed. It does not follow from the layers below: a worker runs a step before
/// this machine knows them.
fn seed(fields: &derivation::Step) -> Option<Digest> {
    let alone = || Derivation::Step(derivation::Step { layers: Vec::new(), ..fields.clone() }).id().digest();
    (fields.repeats != Repeats::Nothing).then(alone)
}

/// Returns the state with the layer of a command's changes; runs the command if the layer is unknown.
pub(super) fn realise(ctx: &BuildContext<'_>, task: &Task<'_>) -> Result<State, Error> {
    let mut state = task.below.for_later_node();
    let fields = derivation(task.step, task.target, state.layers());
    let drv = Derivation::Step(fields.clone());
    let id = drv.id();
    let key = Sha256(id.digest());
    let pinned = task.target.lock.steps.get(&task.target.arch).and_then(|steps| steps.get(&key)).map(|output| LayerId::new(output.layer.0));
    let fixed = fields.is_fixed_output();
    let pinned = pinned.filter(|_| fixed && !task.target.anew);
    let command = task.step.title();
    if fixed && pinned.is_none() && task.target.frozen {
        return Err(Error::NotPinned { command });
    }
    // Listing all lower layers in each step of a long chain would be quadratic; the step below lists its own.
    let inputs = if task.below.steps == 0 { 0 } else { fields.layers.len().saturating_sub(1) };
    let pin = task.target.lock.steps.get(&task.target.arch).and_then(|steps| steps.get(&key)).filter(|_| pinned.is_some());
    let launch = |step: &&Step| launch(&derivation(step, task.target, Vec::new()), task.below);
    let later: Vec<Spec> = task.later.iter().map(launch).collect();
    let run = Run { task, fields: &fields, id, pinned, record: pin.and_then(|pin| pin.record), recording: Recording::default() };
    let layer = step::realise(
        ctx,
        &StepRun {
            kind: &run,
            drv: &drv,
            id,
            layers: &fields.layers,
            epoch: fields.epoch,
            title: &command,
            name: &command,
            recorded_name: format!("step {}", task.step.shown()),
            inputs: &fields.layers[inputs..],
            sends_log: true,
            repeats: fields.repeats,
            later: &later,
        },
        &mut state,
    )?;
    if fixed {
        let size = read_index(ctx, layer)?.bytes();
        // A pin stays as it is.
        let record = if pinned.is_some() { run.record } else { run.recording.digest().map(Sha256) };
        state.outputs.insert(key, StepOutput { layer: Sha256(layer.digest()), size, command: task.step.shown(), record });
    } else {
        state.made_layers.insert(key, Sha256(layer.digest()));
    }
    state.over.push(layer);
    state.steps += 1;
    Ok(state)
}

/// A command with its derivation.
struct Run<'a> {
    task: &'a Task<'a>,
    fields: &'a derivation::Step,
    id: DrvId,
    /// The layer that the lock pins.
    pinned: Option<LayerId>,
    /// The record that the lock names.
    record: Option<Sha256>,
    recording: Recording,
}

impl step::Kind for Run<'_> {
    fn known(&self, ctx: &BuildContext<'_>) -> Option<LayerId> {
        match self.pinned {
            // A lock may name any layer. Accept it only if this very step made it on this machine, or makes it now.
            Some(layer) => {
                let key = self.output_key(layer)?;
                let made = realised_as(ctx, &key).filter(|made| *made == layer);
                made.or_else(|| self.brought(ctx, key, layer))
            }
            // Without a pin there is nothing to reuse: another project's files, or the network on another day, may give another result.
            None if self.fields.is_fixed_output() => None,
            None => realised_or_brought(ctx, self.id.digest()),
        }
    }

    fn prepare(&self, ctx: &BuildContext<'_>, workdir: &Workdir, root: Root) -> Result<Prepared, Error> {
        let project = if self.fields.project { Some(open_project(self.task)?) } else { None };
        let mounts = project.as_ref().map(|project| Mount { host: project.host(), guest: PROJECT.into(), access: Access::ReadOnly });
        let mut spec = launch(self.fields, self.task.below);
        (spec.root, spec.stdio) = (root, Stdio::Log { path: workdir.log.clone() });
        if let Some(mount) = mounts {
            spec.mounts.push(mount);
            spec.cwd = PROJECT.into();
        }
        if !self.fields.network.is_empty() {
            let output = self.pinned.and_then(|layer| self.output_key(layer));
            let pin = self.pinned.map(|_| Pin { record: self.record.map(|record| record.0), output });
            self.recording.prepare(ctx, (self.task.step, self.task.target), pin.as_ref(), (workdir, &mut spec))?;
        }
        Ok(Prepared { spec, project })
    }

    fn reads_root(&self) -> bool {
        // Certificates and the proxy's settings.
        !self.fields.network.is_empty()
    }

    fn check_changes(&self, _: &BuildContext<'_>, upper: &Path) -> Result<Vec<String>, Error> {
        refuse_secrets(upper)?;
        Ok(Vec::new())
    }

    fn ended(&self, ctx: &BuildContext<'_>, workdir: &Workdir, error: Option<&Error>) -> Result<bool, Error> {
        if self.fields.network.is_empty() { Ok(false) } else { self.recording.ended(ctx, self.task.step, workdir, error) }
    }

    fn made(&self, ctx: &BuildContext<'_>, workdir: &Workdir, layer: LayerId) -> Result<bool, Error> {
        if self.fields.network.is_empty() {
            return Ok(false);
        }
        let output = Output { layer, pinned: self.pinned, key: self.output_key(layer) };
        self.recording.made(ctx, self.task.step, workdir, &output)
    }

    fn accept(&self, ctx: &BuildContext<'_>, made: LayerId) -> Result<(), Error> {
        match self.pinned.filter(|pinned| *pinned != made) {
            Some(pinned) => Err(fixed_output::mismatch(ctx, self.task.step.title(), pinned, made)),
            None => Ok(()),
        }
    }

    fn second_key(&self, made: LayerId) -> Option<Digest> {
        self.output_key(made).filter(|_| self.fields.is_fixed_output())
    }
}

impl Run<'_> {
    /// Returns the pinned layer if another machine made it by this very step. The files of a project are not part of the derivation, so a
    /// step that sees them runs here.
    fn brought(&self, ctx: &BuildContext<'_>, key: Digest, pinned: LayerId) -> Option<LayerId> {
        if self.fields.project {
            return None;
        }
        let layer = brought(ctx, self.id.digest()).filter(|layer| *layer == pinned)?;
        ctx.realisations.add(key, layer, None);
        Some(layer)
    }

    /// Returns the key of the fact that a step made this layer. For a step with project files the key includes the project.
    fn output_key(&self, layer: LayerId) -> Option<Digest> {
        let project = match (self.task.step.project, self.task.target.project) {
            (false, _) => String::new(),
            (true, project) => project_key(project?)?,
        };
        Some(fixed_output::key(self.id, layer, &project))
    }
}

/// Returns the launch of a command without its root and log.
fn launch(fields: &derivation::Step, below: &State) -> Spec {
    let nowhere = Root { lower: Vec::new(), upper: Upper::Kept { upper: PathBuf::new(), work: PathBuf::new() } };
    Spec {
        env: fields.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        cwd: "/root".into(),
        abi: Abi::of(below.foreign()),
        seed: seed(fields).map(|seed| Seed(*seed.as_bytes())),
        fixed_time: (fields.repeats == Repeats::Machine).then_some(fields.epoch),
        ..Spec::new(nowhere, fields.argv.iter().map(Into::into).collect())
    }
}

/// Fails if the step left a secret that all users of the image would share.
fn refuse_secrets(upper: &Path) -> Result<(), Error> {
    let left = scrub::SECRETS.iter().find(|secret| fs::symlink_metadata(upper.join(secret.path)).is_ok_and(|meta| meta.len() > 0));
    left.map_or(Ok(()), |secret| Err(Error::Refused { path: secret.path.to_owned(), why: secret.why }))
}

fn open_project(task: &Task<'_>) -> Result<OpenedPath, Error> {
    let project = task.target.project.ok_or_else(|| Error::NoProject { command: task.step.title() })?;
    OpenedPath::open(project, Links::Refuse).map_err(|source| Error::Project { command: task.step.title(), source })
}
