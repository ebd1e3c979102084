//! The worker's side of a step that runs away: composes the root from the layers of the action, launches the step, and packs its changes.
//!
//! It runs in the action's directory, in a process of its own, and trusts the engine as it trusts any program that starts it.
//!
//! In a chain, the changes of a step become a layer here, as they do on the client, and the next step runs on it. If something else than a
//! later step itself fails, the chain ends, and the client runs the rest.

use std::fs::File;
use std::io::{self, BufWriter};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use silo_store::compose::{self, Wanted};
use silo_store::digest::LayerId;
use silo_store::flock::{self, SharedLock};
use silo_store::import::{self, Source};
use silo_store::layout::Store;
use silo_store::manifest::Record;
use silo_store::parallel;
use silo_store::private;
use silo_store::read_limited;

use silo_base::error_chain;
use silo_launch::reexec::{self, ProcessSettings};
use silo_launch::spec::{Root, Spec, Stdio, Upper};
use silo_launch::{Exit, State};

use super::away::{AFTER, BEFORE, Facts, Finding, LAYERS, LOG, LaterReport, NO_SANDBOX, REPORT, Report, Request, Step, VERSION, Work};
use super::budget::LimitWatch;
use super::check::SecondRun;
use super::stack::Stack;
use super::{away, chain, changes, host_name, worker_roots};

/// Limit on a request: the launch with its script and its list of owners.
const MAX_REQUEST_BYTES: u64 = 64 << 20;
/// Limit on the files of one layer, whose archive proves its bytes.
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// Time before the limit of the action at which a later step is given up, so that the results of the earlier ones arrive; in short actions,
/// a quarter of the limit.
const MAX_MARGIN: Duration = Duration::from_secs(60);

/// Directories of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Directories to try for the layers and the changes of one step.
    pub scratch: &'a [PathBuf],
    /// A directory that keeps layers and roots between steps, if the administrator gave one; it is the first to try.
    pub store: Option<&'a Path>,
}

/// True once the client has gone; it is asked while a step runs.
pub type IsAlone<'a> = &'a (dyn Fn() -> bool + Sync);

/// Runs the step of a request in the action's directory `dir`. `program` is this program. Returns the exit code.
pub fn serve(program: &Path, dir: &Path, request: &Path, places: Places<'_>, is_alone: IsAlone<'_>) -> u8 {
    let report = ran(program, dir, request, places, is_alone).unwrap_or_else(|error| Report::Unfit(error_chain::of(&*error).join(": ")));
    let code = match &report {
        Report::Code(0) | Report::Probed(_) => 0,
        Report::Code(_) | Report::Signal(_) | Report::Budget(_) => 1,
        Report::Unfit(_) => NO_SANDBOX,
    };
    let path = dir.join(REPORT);
    let written =
        private::make_dir(&dir.join("out")).is_ok() && private::write(&path, &serde_json::to_vec(&report).unwrap_or_default()).is_ok();
    if written { code } else { NO_SANDBOX }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn ran(program: &Path, dir: &Path, request: &Path, places: Places<'_>, is_alone: IsAlone<'_>) -> Result<Report, Failure> {
    let request: Request = serde_json::from_slice(&read_limited::read(&dir.join(request), MAX_REQUEST_BYTES)?)?;
    if request.version != VERSION {
        return Err(format!("the request has version {}, and this silo knows {VERSION}", request.version).into());
    }
    private::make_dir(&dir.join("out"))?;
    let began = Instant::now();
    let mut found = None;
    let mut refused: Failure = "there is no directory for the step".into();
    let kept = places.store.map(|kept| (kept.join("steps"), Some(kept)));
    for (place, kept) in kept.into_iter().chain(places.scratch.iter().map(|place| (place.clone(), None))) {
        if kept.is_some() {
            private::make_dir(&place)?;
        }
        let made = tempfile::Builder::new().prefix("silo-step-").tempdir_in(&place);
        let done = made.map_err(Failure::from).and_then(|temp| match &request.work {
            Work::Probe => probed(temp.path()),
            Work::Step(wanted) => {
                let action = Action { program, dir, request: wanted, temp: temp.path(), is_alone, began };
                let done = steps(&action, kept);
                // Files of other ids, and directories without search permission, are in the way of the removal.
                drop(reexec::reclaim(program, temp.path()));
                drop(silo_store::removal::remove_tree(temp.path()));
                done
            }
        });
        match done {
            Err(error) if is_alone() => return Err(error),
            Err(error) => refused = error,
            // Another directory may have what this one lacks.
            Ok(Report::Probed(facts)) if is_lacking(&facts) => found = found.or(Some(facts)),
            done => return done,
        }
    }
    found.map(Report::Probed).ok_or(refused)
}

/// An action with steps.
struct Action<'a> {
    program: &'a Path,
    /// The action's directory.
    dir: &'a Path,
    request: &'a Step,
    /// A directory for the layers and changes of this action.
    temp: &'a Path,
    is_alone: IsAlone<'a>,
    began: Instant,
}

/// Runs the steps of a request; returns the report of the first one. `kept` is the worker's own directory.
fn steps(action: &Action<'_>, kept: Option<&Path>) -> Result<Report, Failure> {
    let Action { dir, request, temp, .. } = action;
    let store = Store::open(&kept.unwrap_or(temp).join("store"))?;
    let shared = flock::share(&store)?;
    let layers = request.layers.iter().map(|layer| LayerId::parse(layer)).collect::<Result<Vec<_>, _>>()?;
    let numbered: Vec<(usize, LayerId)> = layers.iter().copied().enumerate().collect();
    let imported: Result<Vec<()>, Failure> = parallel::try_map(&numbered, |(number, id)| {
        if store.has(id) {
            return Ok(());
        }
        let path = dir.join(LAYERS).join(format!("{number:04}"));
        let name = path.display().to_string();
        let source = Source { from: &mut io::BufReader::with_capacity(1 << 17, File::open(&path)?), limit: MAX_LAYER_BYTES, name: &name };
        import::import(&store, &shared, id, &Record::default(), source)?;
        Ok(())
    });
    imported?;
    let root = temp.join("root");
    let roots = kept.map(|kept| kept.join("roots"));
    worker_roots::take((&store, &shared), roots.as_deref(), &layers, &root)?;
    let mut spec = request.spec.clone();
    for mount in &mut spec.mounts {
        mount.host = dir.join(mount.host.path()).into();
    }
    let started = Instant::now();
    let report = launch(action, 0, Spec { root: root_of(vec![root.clone()]), ..spec }, request.max_bytes)?;
    let mut stack = None;
    if report == Report::Code(0) && !request.later.is_empty() {
        let of_first = Stack::new(root.clone(), layers.clone(), compose::merged(&store, &layers)?);
        // The steps that are left have no report.
        drop(later(action, (&store, &shared), layers.clone(), stack.insert(of_first), started));
    }
    if let Some(roots) = &roots {
        let (tree, layers) = stack.map_or((root, layers), |stack| (stack.tree.clone(), stack.of_tree().to_vec()));
        worker_roots::put(roots, &layers, &tree);
    }
    Ok(report)
}

/// Runs the later steps of a chain on the layers of the earlier ones. `started` is the start of the first step.
fn later(
    action: &Action<'_>,
    (store, shared): (&Store, &SharedLock),
    mut layers: Vec<LayerId>,
    stack: &mut Stack,
    started: Instant,
) -> Result<(), Failure> {
    let limit = Duration::from_secs(action.request.seconds);
    let limit = limit.saturating_sub(MAX_MARGIN.min(limit / 4));
    let is_late = || action.began.elapsed() >= limit || (action.is_alone)();
    for (number, spec) in (1..).zip(&action.request.later) {
        if started.elapsed().as_secs() >= chain::MAX_START_SECS || is_late() {
            break;
        }
        let captured =
            stack.lower(|lower| changes::capture((store, shared), &upper(action.temp, number - 1), lower, action.request.epoch))?;
        let layer = captured.stage.commit(&Record::default(), shared)?.id;
        layers.push(layer);
        if !stack.extend(store, &layers)? {
            let into = action.temp.join(format!("root-{number}"));
            let made = compose::recompose(store, shared, &stack.base(), Wanted { layers: &layers, into: &into }, &|_| {})?;
            *stack = Stack::new(into, layers.clone(), made.merged);
        }
        let mut spec = Spec { owners: stack.owners().to_vec(), root: root_of(stack.mounts(store)), ..spec.clone() };
        host_name::set(&mut spec, stack, SecondRun::USUAL_HOST_NAME);
        let max_bytes = away::later_bytes(action.request.max_bytes);
        let report = launch(&Action { is_alone: &is_late, ..*action }, number, spec, max_bytes)?;
        if is_late() || matches!(report, Report::Budget(_)) || after_bytes(action.dir, number) > max_bytes {
            // Alone it has its full limits.
            break;
        }
        let is_done = report == Report::Code(0);
        let text = serde_json::to_vec(&LaterReport { below: layer.to_string(), report })?;
        private::write(&action.dir.join(away::numbered(REPORT, number)), &text)?;
        if !is_done {
            break;
        }
    }
    Ok(())
}

/// Returns the bytes of the archive of a step's changes.
fn after_bytes(dir: &Path, number: usize) -> u64 {
    dir.join(away::numbered(AFTER, number)).metadata().map_or(0, |found| found.len())
}

fn upper(temp: &Path, number: usize) -> PathBuf {
    temp.join(format!("changes-{number}/upper"))
}

/// Returns a root of these directories, whose upper directory comes later.
fn root_of(lower: Vec<PathBuf>) -> Root {
    Root { lower, upper: Upper::Kept { upper: PathBuf::new(), work: PathBuf::new() } }
}

/// Launches a step, and packs its changes if it succeeds.
fn launch(action: &Action<'_>, number: usize, spec: Spec, max_bytes: u64) -> Result<Report, Failure> {
    let upper = upper(action.temp, number);
    let work = upper.with_file_name("work");
    for made in [&upper, &work] {
        private::make_dir(made)?;
    }
    // It is the root directory that other users of the step see; the archive has its mode.
    let before = action.dir.join(BEFORE);
    silo_launch::unpack_changes(&mut io::BufReader::new(File::open(before)?), &upper)?;
    let log = action.dir.join(away::numbered(LOG, number));
    let root = Root { lower: spec.root.lower.clone(), upper: Upper::Kept { upper: upper.clone(), work } };
    let spec = Spec { root, stdio: Stdio::Log { path: log.clone() }, owners_at: None, ..spec };
    let report = launched(action.program, &spec, (&upper, &log), max_bytes, action.is_alone)?;
    if report == Report::Code(0) {
        let after = private::create(&action.dir.join(away::numbered(AFTER, number)))?;
        silo_launch::pack_changes(&upper, BufWriter::new(after))?;
    }
    Ok(report)
}

/// Describes this worker. Call it while the process has one thread.
fn probed(place: &Path) -> Result<Report, Failure> {
    let found = |check: silo_launch::Check| {
        let state = match check.state {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Missing => "missing",
        };
        Finding { name: check.name.to_owned(), state: state.to_owned(), detail: check.detail, cure: check.cure }
    };
    Ok(Report::Probed(Facts {
        silo: env!("CARGO_PKG_VERSION").to_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        checks: silo_launch::probe(place).into_iter().map(found).collect(),
    }))
}

/// True if a worker lacks something that steps need.
fn is_lacking(facts: &Facts) -> bool {
    facts.checks.iter().any(|check| check.state == "missing")
}

/// Launches the step, and watches its limit.
fn launched(program: &Path, spec: &Spec, (upper, log): (&Path, &Path), max_bytes: u64, is_alone: IsAlone<'_>) -> Result<Report, Failure> {
    let mut watch = LimitWatch::new(upper, log, max_bytes);
    let exit = reexec::run(program, spec, ProcessSettings::Usual, &mut || {
        if is_alone() { ControlFlow::Break(()) } else { watch.check() }
    });
    let over = watch.exceeded();
    watch.finish()?;
    if let Some(what) = over {
        return Ok(Report::Budget(what));
    }
    Ok(match exit? {
        Exit::Code(code) => Report::Code(code),
        Exit::Signal(signal) => Report::Signal(signal),
    })
}
