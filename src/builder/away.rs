//! Steps that run away: a worker of a pool of machines launches the step, and its changes come back.
//!
//! Only the launch happens there. The worker gets the layers of the root, each as its canonical archive, and the files that the step starts
//! with. Its answer is not trusted more than a VM's: the archive of changes is unpacked by the same code, and everything after that, such as
//! the search for secrets, the capture and the commit, happens here. So the layer of a step does not depend on the place of its launch.
//!
//! The request is a file of JSON, which the same version of silo reads there ([`super::worker`]).

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use silo_store::archive;
use silo_store::compression;
use silo_store::digest::LayerId;
use silo_store::path_error::at;
use silo_store::private;
use silo_store::removal::remove_tree;

use silo_base::event::Event;
use silo_base::sanitize;
use silo_base::system::Arch;
use silo_launch::Exit;
use silo_launch::spec::{Root, Spec, Stdio, Upper};

use super::context::{BuildContext, read_index};
use super::error::Error;
use super::places::Away;
use super::pool::{Job, JobLayer, NotRun, Pool};
use super::workdir::Workdir;

/// The version of the request and the report.
pub const VERSION: u32 = 1;
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

/// A step to launch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The layers of the root, lowest first.
    pub layers: Vec<String>,
    /// The launch, with paths in the action's directory.
    pub spec: Spec,
    /// Limit on the bytes of files that the step may write.
    pub max_bytes: u64,
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

/// Launches a step on a worker; returns its end and the name of the worker. `None` if it must run here.
pub(super) fn launch(
    ctx: &BuildContext<'_>,
    away: &Away,
    (name, layers): (&str, &[LayerId]),
    workdir: &Workdir,
    spec: &Spec,
) -> Result<Option<(Exit, String)>, Error> {
    // Steps of another architecture have a VM here only because they need one.
    let is_plain = workdir.machine(ctx).is_none() || ctx.home.arch() != Arch::host();
    // A later run of a check has other circumstances.
    let may_go = may_go(spec) && workdir.is_first() && is_plain && away.runs(ctx.home.arch());
    let Some(pool) = away.usable().filter(|_| may_go) else { return Ok(None) };
    let dir = workdir.file("away");
    private::make_dir(&dir)?;
    let before = dir.join(BEFORE);
    private::create(&before).and_then(|file| silo_launch::pack_changes(&workdir.upper(), file)).map_err(at("write", &before))?;
    let mut files = vec![(BEFORE.to_owned(), before)];
    let request = request(ctx, layers, spec, &mut files)?;
    let layers = layers.iter().map(|layer| job_layer(ctx, *layer)).collect::<Result<Vec<_>, _>>()?;
    let sent: Vec<(LayerId, u64)> = layers.iter().map(|layer| (layer.layer, layer.size)).collect();
    let results = [(REPORT, MAX_REPORT_BYTES), (LOG, ctx.max_step_bytes), (AFTER, ctx.max_step_bytes.saturating_add(HEADERS_BYTES))];
    let say = |line| (ctx.sink)(Event::Log { id: 0, line });
    let warn = |text| (ctx.sink)(Event::Warning { text });
    let (program, stop) = (ctx.program, ctx.stop);
    let job = Job { name, program, request, layers, files, dir: &dir, results, say: &say, warn: &warn, place: None, stop };
    let refused = |why: String| Error::Away { name: name.to_owned(), why };
    let worker = match pool.run(&job) {
        Ok(worker) => worker,
        Err(NotRun::Stopped) => return Err(Error::Stopped),
        Err(NotRun::Unfit(why)) => {
            away.give_up(ctx.sink, name, &why);
            return Ok(None);
        }
        Err(NotRun::Failed(error)) => return Err(refused(silo_base::error_chain::of(&*error).join(": "))),
    };
    away.known.note(ctx.store, ctx.realisations, &sent);
    let by = if worker.is_empty() { String::new() } else { format!(" of {worker}") };
    let path = |name: &str| result(&dir, name);
    let report = read_report(&dir).map_err(|why| refused(format!("the report{by} {why}")))?;
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
    }
    // A failure leaves files for `silo gc`.
    drop(remove_tree(&dir));
    Ok(Some((exit, worker)))
}

/// Returns the path of a result.
fn result(dir: &Path, name: &str) -> PathBuf {
    dir.join(name.rsplit('/').next().unwrap_or(name))
}

/// Reads the report of a worker.
fn read_report(dir: &Path) -> Result<Report, String> {
    let text = fs::read(result(dir, REPORT)).map_err(|_| "is missing".to_owned())?;
    serde_json::from_slice(&text).map_err(|error| format!("is malformed: {error}"))
}

/// Asks a machine of a pool, by its number, about itself; returns its name and its answer.
pub fn probe(pool: &dyn Pool, program: &Path, place: usize, stop: &AtomicBool) -> Result<(String, Facts), NotRun> {
    let failed = |error: &dyn std::fmt::Display| NotRun::Failed(error.to_string().into());
    let dir = tempfile::tempdir().map_err(|error| failed(&error))?;
    let request = serde_json::to_vec(&Request { version: VERSION, work: Work::Probe }).map_err(|error| failed(&error))?;
    let quiet = |_: String| {};
    let results = [REPORT, LOG, AFTER].map(|name| (name, MAX_REPORT_BYTES));
    let (layers, files, place) = (Vec::new(), Vec::new(), Some(place));
    let job = Job { name: "the probe", program, request, layers, files, dir: dir.path(), results, say: &quiet, warn: &quiet, place, stop };
    let worker = pool.run(&job)?;
    match read_report(dir.path()).map_err(|why| failed(&why))? {
        Report::Probed(facts) => Ok((worker, facts)),
        Report::Unfit(why) => Err(NotRun::Unfit(silo_base::sanitize::brief(&why))),
        _ => Err(failed(&"the report is one of another request")),
    }
}

/// Writes the request; adds the files that the step sees.
fn request(ctx: &BuildContext<'_>, layers: &[LayerId], spec: &Spec, files: &mut Vec<(String, PathBuf)>) -> Result<Vec<u8>, Error> {
    let mut spec = spec.clone();
    spec.root = Root { lower: Vec::new(), upper: Upper::Kept { upper: PathBuf::new(), work: PathBuf::new() } };
    spec.stdio = Stdio::Log { path: PathBuf::new() };
    for (number, mount) in spec.mounts.iter_mut().enumerate() {
        let name = format!("{FILES}/{number:04}");
        files.push((name.clone(), mount.host.path().to_owned()));
        mount.host = PathBuf::from(name).into();
    }
    let layers = layers.iter().map(LayerId::to_string).collect();
    let work = Work::Step(Box::new(Step { layers, spec, max_bytes: ctx.max_step_bytes }));
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
