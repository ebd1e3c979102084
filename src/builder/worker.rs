//! The worker's side of a step that runs away: composes the root from the layers of the action, launches the step, and packs its changes.
//!
//! It runs in the action's directory, in a process of its own, and trusts the engine as it trusts any program that starts it.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use silo_store::digest::LayerId;
use silo_store::flock;
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

use super::away::{AFTER, BEFORE, Facts, Finding, LAYERS, LOG, NO_SANDBOX, REPORT, Report, Request, Step, VERSION, Work};
use super::budget::LimitWatch;
use super::worker_roots;

/// Limit on a request: the launch with its script and its list of owners.
const MAX_REQUEST_BYTES: u64 = 64 << 20;
/// Interval of the looks at the client.
const LOOK: Duration = Duration::from_millis(50);
/// Limit on the files of one layer, whose archive proves its bytes.
const MAX_LAYER_BYTES: u64 = 64 << 30;

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
                let done = step(program, dir, wanted, (temp.path(), kept), is_alone);
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

fn step(
    program: &Path,
    dir: &Path,
    request: &Step,
    (temp, kept): (&Path, Option<&Path>),
    is_alone: IsAlone<'_>,
) -> Result<Report, Failure> {
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
    let (upper, work, log) = (temp.join("changes/upper"), temp.join("changes/work"), dir.join(LOG));
    for made in [&upper, &work] {
        private::make_dir(made)?;
    }
    // It is the root directory that other users of the step see; the archive has its mode.
    silo_launch::unpack_changes(&mut io::BufReader::new(File::open(dir.join(BEFORE))?), &upper)?;
    let mut spec = request.spec.clone();
    spec.root = Root { lower: vec![root.clone()], upper: Upper::Kept { upper: upper.clone(), work } };
    spec.stdio = Stdio::Log { path: log.clone() };
    for mount in &mut spec.mounts {
        mount.host = dir.join(mount.host.path()).into();
    }
    let report = launched(program, &spec, (&upper, &log), request.max_bytes, is_alone)?;
    if report == Report::Code(0) {
        silo_launch::pack_changes(&upper, BufWriter::new(private::create(&dir.join(AFTER))?))?;
    }
    if let Some(roots) = &roots {
        worker_roots::put(roots, &layers, &root);
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
    let (stop, halt, ended) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let mut watch = LimitWatch::new(upper, log, max_bytes);
    let (exit, over) = std::thread::scope(|scope| {
        let watching = silo_base::thread::beside(scope, || watch.watch(&stop, &halt, &ended))?;
        let gone = silo_base::thread::beside(scope, || {
            while !ended.load(Ordering::Relaxed) {
                if is_alone() {
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
        })?;
        let exit = reexec::run(program, spec, ProcessSettings::Usual, &halt);
        ended.store(true, Ordering::Relaxed);
        watching.thread().unpark();
        gone.thread().unpark();
        let over = watching.join().map_err(|_| "the watch of the step's limit failed")?;
        Ok::<_, Failure>((exit, over))
    })?;
    let over = over.or_else(|| watch.count());
    watch.finish()?;
    if let Some(what) = over {
        return Ok(Report::Budget(what));
    }
    Ok(match exit? {
        Exit::Code(code) => Report::Code(code),
        Exit::Signal(signal) => Report::Signal(signal),
    })
}
