//! Runs one build step: finds its layer or makes it, and in a reproducibility check makes it a second time and compares.
//!
//! Configure steps and command steps share everything here: the build lock, the root, the launch, the capture and the commit. They differ in
//! the parts that [`Kind`] names.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use silo_store::capture::Captured;
use silo_store::digest::{Digest, LayerId};
use silo_store::flock::BuildLock;
use silo_store::manifest::Record as Manifest;
use silo_store::normal::TRUE_XATTR;
use silo_store::path_error::PathError;
use silo_store::private;
use silo_store::realisation::recorded_owners_key;

use silo_base::event::{Activity, Event};
use silo_launch::Exit;
use silo_launch::open_checked::OpenedPath;
use silo_launch::spec::{Root, Spec};
use silo_model::derivation::{Derivation, DrvId, Repeats};

use super::away::Launch;
use super::budget::LimitWatch;
use super::cause::RunFacts;
use super::check::{Check, Verdict, WhichRun};
use super::compare::Made;
use super::context::{BuildContext, realised_as};
use super::error::Error;
use super::log::Follower;
use super::places::Away;
use super::state::State;
use super::step_root::StepRoot;
use super::workdir::Workdir;
use super::{away, changes, compare, host_name, log, run_facts};

/// File name of the launch spec that is kept with a failed step.
pub const SPEC: &str = "spec.json";

/// Interval of the attempts to take a lock that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The parts in which the kinds of steps differ.
pub(super) trait Kind {
    /// Returns the layer of the step, if it is known and in the store.
    fn known(&self, ctx: &BuildContext<'_>) -> Option<LayerId>;

    /// Prepares the working directory, and returns the launch.
    fn prepare(&self, ctx: &BuildContext<'_>, workdir: &Workdir, root: Root) -> Result<Prepared, Error>;

    /// True if [`Kind::prepare`] reads files of the root.
    fn reads_root(&self) -> bool;

    /// Checks and cleans the changes of a finished step; returns the paths of removed secrets.
    fn check_changes(&self, ctx: &BuildContext<'_>, upper: &Path) -> Result<Vec<String>, Error>;

    /// Refuses a new layer, for example if the lock pins another one.
    fn accept(&self, _: &BuildContext<'_>, _: LayerId) -> Result<(), Error> {
        Ok(())
    }

    /// Reads what a run left besides its changes; `error` is its failure. Returns true if the step must run again.
    fn ended(&self, _: &BuildContext<'_>, _: &Workdir, _error: Option<&Error>) -> Result<bool, Error> {
        Ok(false)
    }

    /// Takes the layer of a run. Returns true if the step must run again.
    fn made(&self, _: &BuildContext<'_>, _: &Workdir, _: LayerId) -> Result<bool, Error> {
        Ok(false)
    }

    /// Returns a second key under which the new layer is recorded.
    fn second_key(&self, _: LayerId) -> Option<Digest> {
        None
    }
}

/// A step to run.
pub(super) struct StepRun<'a> {
    /// Its own parts.
    pub kind: &'a dyn Kind,
    /// The derivation.
    pub drv: &'a Derivation,
    /// The derivation's id: computing it encodes the names of all layers.
    pub id: DrvId,
    /// The layers of its root, lowest first.
    pub layers: &'a [LayerId],
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
    /// Name of its activity.
    pub title: &'a str,
    /// Name in errors.
    pub name: &'a str,
    /// Name in the layer's manifest.
    pub recorded_name: String,
    /// Inputs in the layer's manifest.
    pub inputs: &'a [LayerId],
    /// True if log lines are also sent as events while the step runs.
    pub sends_log: bool,
    /// The inputs of chance that are the same in each run, in addition to those of its kind.
    pub repeats: Repeats,
    /// The launches of later steps that may run in its action on a worker.
    pub later: &'a [Spec],
}

/// A launch that is ready.
pub(super) struct Prepared {
    /// The launch spec.
    pub spec: Spec,
    /// The project, open until the step ends, so that the checked directory is the mounted one.
    pub project: Option<OpenedPath>,
}

/// Returns the layer of a step; runs the step if the layer is unknown. With a reproducibility check the step runs a second time.
pub(super) fn realise(ctx: &BuildContext<'_>, step: &StepRun<'_>, state: &mut State) -> Result<LayerId, Error> {
    let first = match known(ctx, step) {
        Some(layer) => earlier(ctx, step, layer),
        None => make(ctx, step, state)?,
    };
    if let Some(check) = ctx.check {
        first.facts.wait_for_another_second();
        let second = again(ctx, step, state, (check, WhichRun::Second))?;
        let mut found = compare::compare(ctx, step.title, (&first, &second), &state.present)?;
        if check.verdict == Verdict::Note && found.iter().any(|finding| finding.cause.is_fixed()) {
            let third = again(ctx, step, state, (check, WhichRun::Third))?;
            found = compare::noted(found, compare::compare(ctx, step.title, (&first, &third), &state.present)?);
        }
        check.add(step.title, found);
    }
    Ok(first.layer)
}

/// Runs a step once more, for a check.
fn again(ctx: &BuildContext<'_>, step: &StepRun<'_>, state: &mut State, (check, which): (&Check, WhichRun)) -> Result<Made, Error> {
    // Two checks of one step would share the working directory.
    let _alone = lock_step(ctx, &Digest::of(format!("check of {}", step.id).as_bytes()))?;
    let mut root = StepRoot::new(ctx, step.layers, state.take_root())?;
    let title = format!("{}, again", step.title);
    let (made, workdir) = runs(ctx, step, &title, &mut root, || Workdir::other(ctx, step.id, check, which))?;
    drop(workdir);
    state.put_root(root);
    Ok(made)
}

/// Returns the layer of a step, if it is known. A layer with recorded owners counts only where owners are recorded, and only if no lock has
/// another one.
fn known(ctx: &BuildContext<'_>, step: &StepRun<'_>) -> Option<LayerId> {
    let key = step.id.digest();
    let recorded = || realised_as(ctx, &recorded_owners_key(&key)).filter(|layer| ctx.pin(&key).is_none_or(|pin| pin == *layer));
    step.kind.known(ctx).or_else(|| if ctx.records() { recorded() } else { None })
}

/// Returns a known layer. It may be another one than that of the lock, if this machine made it before it had the lock.
fn earlier(ctx: &BuildContext<'_>, step: &StepRun<'_>, layer: LayerId) -> Made {
    if let Some(pinned) = ctx.pin(&step.id.digest()).filter(|pinned| *pinned != layer) {
        warn_of_another(ctx, step, layer, pinned);
    }
    let fixed_time = matches!(step.drv, Derivation::Configure(_)).then_some(step.epoch);
    Made { layer, facts: RunFacts::of_earlier(ctx, layer, fixed_time), has_owners: true, worker: None }
}

fn warn_of_another(ctx: &BuildContext<'_>, step: &StepRun<'_>, layer: LayerId, pinned: LayerId) {
    let text = format!("{}: layer {:.12} differs from the locked one, {:.12}", step.title, layer.to_string(), pinned.to_string());
    (ctx.sink)(Event::Warning { text });
}

/// Compares the layer of a step with the locked one, if a lock has one. A step that only recorded owners is run again in a VM if its layer
/// is another one; without a VM it fails.
fn compared(ctx: &BuildContext<'_>, step: &StepRun<'_>, root: &mut StepRoot, made: Made) -> Result<Made, Error> {
    let Some(pinned) = ctx.pin(&step.id.digest()).filter(|pinned| *pinned != made.layer) else { return Ok(made) };
    if made.has_owners {
        warn_of_another(ctx, step, made.layer, pinned);
        return Ok(made);
    }
    let name = step.title.to_owned();
    let machine = ctx.second_machine.ok_or(Error::Recorded { name, pinned, made: made.layer })?;
    let text = format!("{}: the owners of files need a virtual machine, so the step runs again in one", step.title);
    (ctx.sink)(Event::Note { text });
    let ctx = &BuildContext { machine: Some(machine), ..*ctx };
    let (made, workdir) = runs(ctx, step, step.title, root, || Workdir::new(ctx, step.id))?;
    if made.layer != pinned {
        warn_of_another(ctx, step, made.layer, pinned);
    }
    root.put_by(workdir);
    Ok(made)
}

/// Runs a step, unless another process has made its layer in the meantime.
fn make(ctx: &BuildContext<'_>, step: &StepRun<'_>, state: &mut State) -> Result<Made, Error> {
    let key = step.id.digest();
    let lock = lock_step(ctx, &key)?;
    if let Some(layer) = known(ctx, step) {
        return Ok(earlier(ctx, step, layer));
    }
    ctx.check_stop()?;
    ctx.check_machine()?;
    let mut root = StepRoot::new(ctx, step.layers, state.take_root())?;
    let (made, workdir) = runs(ctx, step, step.title, &mut root, || Workdir::new(ctx, step.id))?;
    let workdir = checked_here(ctx, step, &mut root, (&made, workdir))?;
    root.put_by(workdir);
    let made = compared(ctx, step, &mut root, made)?;
    step.kind.accept(ctx, made.layer)?;
    let is_true = made.has_owners || ctx.pin(&key) == Some(made.layer);
    let key = if is_true { key } else { recorded_owners_key(&key) };
    ctx.realisations.add(key, made.layer, Some(lock));
    if let Some(second) = step.kind.second_key(made.layer) {
        ctx.realisations.add(second, made.layer, None);
    }
    state.put_root(root);
    state.made += 1;
    Ok(made)
}

/// Runs some of the steps that ran on a worker here too, and compares the layers. Returns the last working directory.
fn checked_here(
    ctx: &BuildContext<'_>,
    step: &StepRun<'_>,
    root: &mut StepRoot,
    (made, workdir): (&Made, Workdir),
) -> Result<Workdir, Error> {
    let Some(worker) = made.worker.as_ref().filter(|_| ctx.pool.is_some_and(Away::is_checked)) else { return Ok(workdir) };
    let _place = ctx.pool.map(|away| away.here(ctx.jobs, ctx.stop)).transpose()?;
    // The directories of one derivation have one name.
    drop(workdir);
    let title = format!("{}, again here", step.title);
    let ctx = &BuildContext { pool: None, ..*ctx };
    let (here, workdir) = runs(ctx, step, &title, root, || Workdir::new(ctx, step.id))?;
    match here.layer == made.layer {
        true => Ok(workdir),
        false => {
            let (name, worker) = (step.name.to_owned(), worker.clone());
            Err(Error::OtherResult { name, worker, away: made.layer, here: here.layer })
        }
    }
}

/// Runs a step in new working directories until its kind is content, and returns the last one.
fn runs(
    ctx: &BuildContext<'_>,
    step: &StepRun<'_>,
    title: &str,
    root: &mut StepRoot,
    new: impl Fn() -> Result<Workdir, Error>,
) -> Result<(Made, Workdir), Error> {
    loop {
        let mut workdir = new()?;
        if let Some(made) = ctx.activity(Activity::Step, title, None, |_| run(ctx, step, &mut workdir, root))? {
            return Ok((made, workdir));
        }
        ctx.check_stop()?;
    }
}

/// Runs a step once, and commits its changes. Returns nothing if the step must run again.
fn run(ctx: &BuildContext<'_>, step: &StepRun<'_>, workdir: &mut Workdir, root: &mut StepRoot) -> Result<Option<Made>, Error> {
    let (began, began_at) = (Instant::now(), run_facts::now());
    if step.kind.reads_root() {
        root.compose(ctx)?;
    }
    let mut prepared = step.kind.prepare(ctx, workdir, Root { lower: root.stack.mounts(ctx.store), upper: workdir.overlay() })?;
    prepared.spec.owners = root.stack.owners().to_vec();
    prepared.spec.owners_at = Some(root.owners_dir());
    host_name::set(&mut prepared.spec, &root.stack, workdir.host_name());
    prepared.spec.conditions = workdir.conditions(&prepared.spec, step.repeats);
    let mut attempt = Attempt { ctx, workdir, root, spec: &prepared.spec };
    let launched = attempt.launch(step);
    if step.kind.ended(ctx, attempt.workdir, launched.as_ref().err())? {
        return Ok(None);
    }
    let worker = launched?;
    let mut nothing: [u8; 0] = [];
    let has_owners = rustix::fs::lgetxattr(attempt.workdir.upper(), TRUE_XATTR, &mut nothing).is_ok();
    let facts = RunFacts::of_run(ctx, attempt.spec, began_at, &attempt.workdir.upper());
    let checked = step.kind.check_changes(ctx, &attempt.workdir.upper());
    let captured = checked.and_then(|removed| {
        let upper = attempt.workdir.upper();
        if let Some(empty) = changes::none(ctx.store, &upper) {
            return Ok((Changes::None(empty), removed));
        }
        let captured = attempt.root.stack.lower(|lower| changes::capture((ctx.store, ctx.lock), &upper, lower, step.epoch))?;
        Ok((Changes::Captured(Box::new(captured)), removed))
    });
    let (captured, removed) = captured.map_err(|error| attempt.refused(error))?;
    drop(prepared.project);
    let layer = match captured {
        Changes::None(empty) => empty,
        Changes::Captured(captured) => {
            let manifest = Manifest {
                derivation: step.id.to_string(),
                name: step.recorded_name.clone(),
                duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                created: ctx.created(),
                inputs: step.inputs.iter().map(LayerId::to_string).collect(),
                packages: Vec::new(),
                removed,
                place: ctx.pool.zip(worker.as_ref()).map(|(away, worker)| away.describe(worker)).unwrap_or_default(),
            };
            let committed = captured.stage.commit(&manifest, ctx.lock);
            committed.map_err(|source| Error::store("committing the step's changes", source))?.id
        }
    };
    if step.kind.made(ctx, workdir, layer)? {
        return Ok(None);
    }
    Ok(Some(Made { layer, facts, has_owners, worker }))
}

/// The changes of a step.
enum Changes {
    /// There are none; the layer without entries is in the store.
    None(LayerId),
    /// They are not in the store yet.
    Captured(Box<Captured>),
}

/// One attempt to run a step.
struct Attempt<'a> {
    ctx: &'a BuildContext<'a>,
    workdir: &'a mut Workdir,
    root: &'a mut StepRoot,
    spec: &'a Spec,
}

impl Attempt<'_> {
    /// Runs the program; fails unless it exits with code 0. Returns the name of the worker, if it did not run here.
    fn launch(&mut self, step: &StepRun<'_>) -> Result<Option<String>, Error> {
        let ctx = self.ctx;
        let _here = match ctx.pool {
            Some(away) => {
                let launch = Launch { name: step.name, layers: step.layers, spec: self.spec, later: step.later, epoch: step.epoch };
                let sent = match step.repeats {
                    // The VM is one of this machine.
                    Repeats::Machine => None,
                    Repeats::Nothing | Repeats::Random => away::launch(ctx, away, &launch, self.workdir, &mut self.root.ahead)?,
                };
                match sent {
                    Some((exit, worker)) => return self.ended(step, exit).map(|()| Some(worker)),
                    None => {
                        ctx.check_machine_here()?;
                        Some(away.here(ctx.jobs, ctx.stop)?)
                    }
                }
            }
            None => None,
        };
        let machine = match step.repeats {
            Repeats::Machine => Some(ctx.counted_machine()?),
            Repeats::Nothing | Repeats::Random => self.workdir.machine(ctx),
        };
        self.root.compose(ctx)?;
        let launched = Spec { machine, ..self.spec.clone() };
        let upper = self.workdir.upper();
        let mut watch = LimitWatch::new(&upper, &self.workdir.log, ctx.max_step_bytes);
        let mut lines = step.sends_log.then(|| Follower::new(&self.workdir.log));
        let mut send_lines = || lines.iter_mut().for_each(|lines| lines.read(&|line| (ctx.sink)(Event::Log { id: 0, line })));
        let exit = silo_launch::reexec::run(ctx.program, &launched, self.workdir.circumstances(), &mut || {
            send_lines();
            if ctx.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { watch.check() }
        });
        send_lines();
        let over = watch.exceeded();
        watch.finish().map_err(|source| Error::File(PathError { doing: "shorten", path: self.workdir.log.clone(), source }))?;
        ctx.check_stop()?;
        if let Some(what) = over {
            return Err(Error::Budget { name: step.name.to_owned(), what });
        }
        self.ended(step, exit?).map(|()| None)
    }

    /// Fails unless the program ended with code 0.
    fn ended(&mut self, step: &StepRun<'_>, exit: Exit) -> Result<(), Error> {
        match exit {
            Exit::Code(0) => Ok(()),
            exit => {
                let kept = self.keep()?;
                let log = self.workdir.log.clone();
                Err(Error::Step { name: step.name.to_owned(), exit: log::describe_exit(exit), tail: log::tail(&log), log, kept })
            }
        }
    }

    /// Keeps the directories of a step that ran but whose changes are refused, if failed steps are kept. Returns the error.
    fn refused(&mut self, error: Error) -> Error {
        match self.keep() {
            Ok(None) => error,
            Ok(Some(kept)) => {
                let text = format!("the root of the refused step is kept; `silo debug {kept:.12}` opens it");
                (self.ctx.sink)(Event::Note { text });
                error
            }
            Err(error) => error,
        }
    }

    /// Keeps the directories of a failed step if requested; returns their name, for `silo debug`.
    fn keep(&mut self) -> Result<Option<String>, Error> {
        if !self.ctx.keep_failed {
            return Ok(None);
        }
        let Some(name) = self.workdir.keep() else { return Ok(None) };
        let path = self.workdir.file(SPEC);
        private::write(&path, &self.spec.to_json()?).map_err(|source| Error::File(PathError { doing: "write", path, source }))?;
        self.root.compose(self.ctx)?;
        self.root.keep();
        Ok(Some(name))
    }
}

/// Takes the build lock of a derivation. Waits while another process holds it; the user can stop the wait.
pub(super) fn lock_step(ctx: &BuildContext<'_>, key: &Digest) -> Result<BuildLock, Error> {
    loop {
        ctx.check_stop()?;
        let locked = silo_store::flock::try_build(ctx.store, ctx.lock, key);
        match locked.map_err(|source| Error::store("locking the step", source))? {
            Some(ours) => return Ok(ours),
            None => {
                // The other process may wait for a lock of this one. Locks end when their realisations are written.
                ctx.realisations.record(ctx.store, ctx.lock).map_err(Error::File)?;
                thread::sleep(LOCK_PAUSE);
            }
        }
    }
}
