//! Steps that run away: a worker of a pool of machines launches the step, and its changes come back.
//!
//! Only the launch happens there. The worker gets the layers of the root, each as its canonical archive, and the files that the step starts
//! with. Its answer is not trusted more than a VM's: the archive of changes is unpacked by the same code, and everything after that, such as
//! the search for secrets, the capture and the commit, happens here. So the layer of a step does not depend on the place of its launch.
//!
//! The request is a file of JSON, which the same version of silo reads there ([`super::worker`]). It may have the steps of a chain
//! ([`super::chain`]).

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use silo_store::archive;
use silo_store::compression;
use silo_store::digest::LayerId;
use silo_store::path_error::at;
use silo_store::private;
use silo_store::read_limited;

use silo_base::error_chain;
use silo_base::event::Event;
use silo_base::sanitize;
use silo_base::system::Arch;
use silo_launch::Exit;
use silo_launch::spec::Spec;

use super::chain::{self, Ahead, LATER_BYTES};
use super::context::{BuildContext, read_index};
use super::error::Error;
use super::image::unique_dir;
use super::places::Away;
use super::pool::{Job, JobLayer, NotRun, Pool};
use super::workdir::Workdir;

/// The version of the request and the report.
pub const VERSION: u32 = 2;
/// Name of the request in the action's directory.
pub const REQUEST: &str = "request";
/// Directory of the layers, each named by its place.
pub const LAYERS: &str = "layers";
/// Directory of other files that the step sees.
pub const FILES: &str = "files";
/// The archive of the files that the step starts with.
pub const BEFORE: &str = "before.tar";
/// The archive of the files that the step wrote.
pub const AFTER: &str = "out/after.tar";
/// The step's log.
pub const LOG: &str = "out/log";
/// The report of the worker.
pub const REPORT: &str = "out/report";
/// Exit code of a worker that cannot run sandboxes.
pub const NO_SANDBOX: u8 = 125;

/// Limit on a report.
pub const MAX_REPORT_BYTES: u64 = 64 << 10;
/// Room for headers in the archive of the changes, beyond the limit on the files.
const HEADERS_BYTES: u64 = 64 << 20;

/// A request to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The version of this format.
    pub version: u32,
    /// The work.
    pub work: Work,
}

/// The work of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A step.
    Step(Box<Step>),
    /// A look at the worker itself.
    Probe,
}

/// A step to launch, with the steps after it in a chain.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The layers of the root, lowest first.
    pub layers: Vec<String>,
    /// The launch, with paths in the action's directory.
    pub spec: Spec,
    /// Limit on the bytes of files that the step may write.
    pub max_bytes: u64,
    /// The launches of the later steps, without owners, host name and the files for it.
    pub later: Vec<Spec>,
    /// The build's SOURCE_DATE_EPOCH, for the layers below the later steps.
    pub epoch: i64,
    /// Seconds that the action may run.
    pub seconds: u64,
}

/// The report of a later step.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaterReport {
    /// The layer of the step before it, as the worker captured it.
    pub below: String,
    /// The end of the step.
    pub report: Report,
}

/// The report of a worker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Report {
    /// The step ended with this exit code.
    Code(u8),
    /// A signal ended the step.
    Signal(i32),
    /// The step exceeded a limit.
    Budget(String),
    /// The worker cannot run the step.
    Unfit(String),
    /// The answer to a look at the worker.
    Probed(Facts),
}

/// Facts about a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The version of its silo.
    pub silo: String,
    /// Its architecture, as Rust names it.
    pub architecture: String,
    /// The number of its processors.
    pub processors: usize,
    /// Findings about its sandboxes.
    pub checks: Vec<Finding>,
}

/// A finding about a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The feature.
    pub name: String,
    /// `ok`, `degraded` or `missing`.
    pub state: String,
    /// A description.
    pub detail: String,
    /// Advice; empty if there is nothing to do.
    pub cure: String,
}

/// Returns true if a step may run away: it needs nothing of this machine.
fn may_go(spec: &Spec) -> bool {
    spec.network.is_none() && spec.machine.is_none() && spec.mounts.iter().all(|mount| mount.host.inode().is_none())
}

/// A launch of a step.
pub(super) struct Launch<'a> {
    /// The name in errors.
    pub name: &'a str,
    /// The layers of the root, lowest first.
    pub layers: &'a [LayerId],
    /// The launch.
    pub spec: &'a Spec,
    /// The launches of later steps that may run in the same action.
    pub later: &'a [Spec],
    /// The build's SOURCE_DATE_EPOCH.
    pub epoch: i64,
}

/// Launches a step on a worker, or takes its result if a worker ran it in a chain; returns its end and the name of the worker. `None` if it
/// must run here. Results of later steps go to `ahead`.
pub(super) fn launch(
    ctx: &BuildContext<'_>,
    away: &Away,
    step: &Launch<'_>,
    workdir: &Workdir,
    ahead: &mut Option<Ahead>,
) -> Result<Option<(Exit, String)>, Error> {
    // Steps of another architecture have a VM here only because they need one.
    let is_plain = workdir.machine(ctx).is_none() || ctx.home.arch() != Arch::host();
    // A later run of a check has other circumstances.
    let may_go = may_go(step.spec) && workdir.is_first() && is_plain && away.runs(ctx.home.arch());
    let Some(pool) = away.usable().filter(|_| may_go) else { return Ok(None) };
    let of_layer = |dir: &Path, number| LayerId::parse(&read_later(dir, number).ok()?.below).ok();
    let known = ahead.take().and_then(|known| Some((known.number(step.layers, step.spec, of_layer)?, known)));
    let (number, results) = match known {
        Some(known) => known,
        None => match sent(ctx, away, pool, step, workdir)? {
            Some(results) => (0, results),
            None => return Ok(None),
        },
    };
    let taken = take(ctx, away, (step.name, number), workdir, &results)?;
    let taken = taken.map(|exit| (exit, results.worker.clone()));
    *ahead = Some(results);
    Ok(taken)
}

/// Runs a step on a worker, with the steps after it; returns the results. `None` if it must run here.
fn sent(ctx: &BuildContext<'_>, away: &Away, pool: &dyn Pool, step: &Launch<'_>, workdir: &Workdir) -> Result<Option<Ahead>, Error> {
    let mut ahead = Ahead::new(unique_dir(ctx.home, "away-")?, step.layers, step.later);
    let dir = ahead.dir.clone();
    let before = dir.join(BEFORE);
    private::create(&before).and_then(|file| silo_launch::pack_changes(&workdir.upper(), file)).map_err(at("write", &before))?;
    let mut files = vec![(BEFORE.to_owned(), before)];
    let request = request(ctx, pool, step, &mut files)?;
    let layers = step.layers.iter().map(|layer| job_layer(ctx, *layer)).collect::<Result<Vec<_>, _>>()?;
    let sent: Vec<(LayerId, u64)> = layers.iter().map(|layer| (layer.layer, layer.size)).collect();
    let mut results = results_of(0, ctx.max_step_bytes).to_vec();
    results.extend((1..=step.later.len()).flat_map(|number| results_of(number, later_bytes(ctx.max_step_bytes))));
    let say = |line| (ctx.sink)(Event::Log { id: 0, line });
    let warn = |text| (ctx.sink)(Event::Warning { text });
    let (name, program, stop) = (step.name, ctx.program, ctx.stop);
    let job = Job { name, program, request, layers, files, dir: &dir, results, say: &say, warn: &warn, place: None, stop };
    match pool.run(&job) {
        Ok(worker) => ahead.worker = worker,
        Err(NotRun::Stopped) => return Err(Error::Stopped),
        Err(NotRun::Unfit(why)) => {
            away.give_up(ctx.sink, name, &why);
            return Ok(None);
        }
        Err(NotRun::Failed(error)) => return Err(Error::Away { name: name.to_owned(), why: error_chain::of(&*error).join(": ") }),
    }
    away.known.note(ctx.store, ctx.realisations, &sent);
    Ok(Some(ahead))
}

/// Returns the limit on the files of a later step of a chain.
pub(super) fn later_bytes(max_bytes: u64) -> u64 {
    max_bytes.min(LATER_BYTES)
}

/// Returns the results of a step, each with its limit.
fn results_of(number: usize, max_bytes: u64) -> [(String, u64); 3] {
    let limits = [(REPORT, MAX_REPORT_BYTES), (LOG, max_bytes), (AFTER, max_bytes.saturating_add(HEADERS_BYTES))];
    limits.map(|(name, most)| (numbered(name, number), most))
}

/// Returns the name of a result of a step: the number 0 is the first one of the request.
pub(super) fn numbered(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}-{number:02}") }
}

/// Takes the result of a step: its log, and its changes if it succeeded. `None` if the worker cannot run it.
fn take(
    ctx: &BuildContext<'_>,
    away: &Away,
    (name, number): (&str, usize),
    workdir: &Workdir,
    results: &Ahead,
) -> Result<Option<Exit>, Error> {
    let by = if results.worker.is_empty() { String::new() } else { format!(" of {}", results.worker) };
    let refused = |why: String| Error::Away { name: name.to_owned(), why };
    let path = |name: &str| result(&results.dir, &numbered(name, number));
    let report = if number == 0 { read(&results.dir, REPORT) } else { read_later(&results.dir, number).map(|later| later.report) };
    let report = report.map_err(|why| refused(format!("the report{by} {why}")))?;
    if path(LOG).exists() {
        fs::rename(path(LOG), &workdir.log).map_err(at("move the log to", &workdir.log))?;
    }
    let exit = match report {
        Report::Code(code) => Exit::Code(code),
        Report::Signal(signal) => Exit::Signal(signal),
        Report::Budget(what) => return Err(Error::Budget { name: name.to_owned(), what: sanitize::brief(&what) }),
        Report::Unfit(why) => {
            away.give_up(ctx.sink, name, &format!("a worker{by} cannot run it: {}", sanitize::brief(&why)));
            return Ok(None);
        }
        Report::Probed(_) => return Err(refused(format!("the report{by} is one of another request"))),
    };
    if exit == Exit::Code(0) {
        let upper = workdir.upper();
        let file = File::open(path(AFTER)).map_err(|_| refused(format!("the changes{by} are missing")))?;
        silo_launch::clear_changes(&upper).map_err(at("clear", &upper))?;
        let unpacked = silo_launch::unpack_changes(&mut BufReader::new(file), &upper);
        unpacked.map_err(|error| refused(format!("the changes{by} are refused: {error}")))?;
        // It only takes space; the directory is removed in the end.
        drop(fs::remove_file(path(AFTER)));
    }
    Ok(Some(exit))
}

/// Returns the path of a result.
fn result(dir: &Path, name: &str) -> PathBuf {
    dir.join(name.rsplit('/').next().unwrap_or(name))
}

/// Reads a report of a worker.
fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, String> {
    let text = read_limited::read(&result(dir, name), MAX_REPORT_BYTES).map_err(|_| "is missing".to_owned())?;
    serde_json::from_slice(&text).map_err(|error| format!("is malformed: {error}"))
}

fn read_later(dir: &Path, number: usize) -> Result<LaterReport, String> {
    read(dir, &numbered(REPORT, number))
}

/// Asks a machine of a pool, by its number, about itself; returns its name and its answer.
pub fn probe(pool: &dyn Pool, program: &Path, place: usize, stop: &AtomicBool) -> Result<(String, Facts), NotRun> {
    let failed = |error: &dyn std::fmt::Display| NotRun::Failed(error.to_string().into());
    let dir = tempfile::tempdir().map_err(|error| failed(&error))?;
    let request = serde_json::to_vec(&Request { version: VERSION, work: Work::Probe }).map_err(|error| failed(&error))?;
    let quiet = |_: String| {};
    let results = [REPORT, LOG, AFTER].map(|name| (name.to_owned(), MAX_REPORT_BYTES)).to_vec();
    let (layers, files, place) = (Vec::new(), Vec::new(), Some(place));
    let job = Job { name: "the probe", program, request, layers, files, dir: dir.path(), results, say: &quiet, warn: &quiet, place, stop };
    let worker = pool.run(&job)?;
    match read(dir.path(), REPORT).map_err(|why| failed(&why))? {
        Report::Probed(facts) => Ok((worker, facts)),
        Report::Unfit(why) => Err(NotRun::Unfit(silo_base::sanitize::brief(&why))),
        _ => Err(failed(&"the report is one of another request")),
    }
}

/// Writes the request; adds the files that the step sees.
fn request(ctx: &BuildContext<'_>, pool: &dyn Pool, step: &Launch<'_>, files: &mut Vec<(String, PathBuf)>) -> Result<Vec<u8>, Error> {
    let kept = step.spec.clone();
    let mut spec = Spec { hostname: kept.hostname, files: kept.files, owners: kept.owners, ..chain::request_of(step.spec) };
    for (number, mount) in spec.mounts.iter_mut().enumerate() {
        let name = format!("{FILES}/{number:04}");
        files.push((name.clone(), mount.host.path().to_owned()));
        mount.host = PathBuf::from(name).into();
    }
    let work = Work::Step(Box::new(Step {
        layers: step.layers.iter().map(LayerId::to_string).collect(),
        spec,
        max_bytes: ctx.max_step_bytes,
        later: step.later.iter().map(chain::request_of).collect(),
        epoch: step.epoch,
        seconds: pool.limit().as_secs(),
    }));
    let request = Request { version: VERSION, work };
    serde_json::to_vec(&request).map_err(|_| Error::fault("the request of a remote step cannot be written"))
}

fn job_layer<'a>(ctx: &BuildContext<'a>, layer: LayerId) -> Result<JobLayer<'a>, Error> {
    let index = read_index(ctx, layer)?;
    let tree = ctx.store.tree(&layer);
    let size = archive::length(index.entries());
    let write = move |out: &mut dyn Write| compression::write_layer(&tree, &index, layer, &mut &mut *out).map_err(io::Error::other);
    Ok(JobLayer { layer, size, write: Box::new(write) })
}
