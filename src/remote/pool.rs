//! A pool of workers for build steps: each step is an action of the engine.
//!
//! The action's directory has the silo program, the request, the layers of the root and the files that the step sees. A layer's id is the
//! digest of its archive, so a layer that the server knows travels to it once, whichever step needs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use silo_base::system::Arch;
use silo_build::away;
use silo_build::pool::{Job, NotRun, Pool};
use silo_store::digest::{HashingWriter, LayerId};
use silo_store::private;

use crate::action::{Action, InputFile};
use crate::blobs::{BlobId, Blobs, Source};
use crate::connection::Endpoint;
use crate::error::Error;
use crate::execution::{Limits, Stage};
use crate::server::{Ran, Remote};

/// The command that serves a step.
pub const WORD: &str = "__remote-step";
/// Name of the silo program in the action's directory.
const PROGRAM: &str = "silo";

/// A pool, as the user's settings describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// The server.
    pub endpoint: Endpoint,
    /// The properties that a worker must have.
    pub platform: Vec<(String, String)>,
    /// The architecture of the workers.
    pub arch: Arch,
    /// The silo program of the workers; by default this one.
    pub program: Option<PathBuf>,
    /// Number of steps at the same time.
    pub jobs: usize,
    /// Time limits of a step.
    pub limits: Limits,
}

/// A pool; the connection is opened by the first step.
pub struct Workers {
    settings: PoolSettings,
    remote: Mutex<Option<Arc<Remote>>>,
    program: OnceLock<BlobId>,
}

impl Workers {
    /// Returns a pool that has asked nothing yet.
    pub fn new(settings: PoolSettings) -> Workers {
        Workers { settings, remote: Mutex::new(None), program: OnceLock::new() }
    }

    fn remote(&self, stop: &AtomicBool) -> Result<Arc<Remote>, Error> {
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = &*remote {
            return Ok(Arc::clone(remote));
        }
        let connected = Arc::new(Remote::connect(&self.settings.endpoint, stop)?);
        Ok(Arc::clone(remote.insert(connected)))
    }

    fn ran(&self, job: &Job<'_>) -> Result<(Arc<Remote>, Ran), Error> {
        let remote = self.remote(job.stop)?;
        let mut blobs = Blobs::default();
        let mut files = BTreeMap::new();
        let program = self.settings.program.as_deref().unwrap_or(job.program);
        let blob = match self.program.get() {
            Some(known) => *known,
            None => {
                let read = blob_of(program).map_err(|source| Error::File { doing: "read", path: program.to_owned(), source })?;
                *self.program.get_or_init(|| read)
            }
        };
        blobs.add_known(blob, Source::File(program.to_owned()));
        files.insert(PROGRAM.to_owned(), InputFile { blob, is_executable: true });
        let request = InputFile { blob: blobs.add(job.request.clone()), is_executable: false };
        files.insert(away::REQUEST.to_owned(), request);
        for (number, layer) in job.layers.iter().enumerate() {
            let blob = BlobId { digest: layer.layer.digest(), size: layer.size };
            blobs.add_known(blob, Source::Made(&*layer.write));
            files.insert(format!("{}/{number:04}", away::LAYERS), InputFile { blob, is_executable: false });
        }
        for (name, path) in &job.files {
            let blob = blob_of(path).map_err(|source| Error::File { doing: "read", path: path.clone(), source })?;
            blobs.add_known(blob, Source::File(path.clone()));
            files.insert(name.clone(), InputFile { blob, is_executable: false });
        }
        let action = Action {
            arguments: vec![format!("./{PROGRAM}"), WORD.to_owned(), away::REQUEST.to_owned()],
            files,
            blobs,
            outputs: job.results.iter().map(|(name, _)| name.clone()).collect(),
            platform: self.settings.platform.clone(),
            salt: format!("silo-step {}", away::VERSION).into_bytes(),
            limits: self.settings.limits,
        };
        let url = &self.settings.endpoint.url;
        let progress = |stage| {
            let stage = match stage {
                Stage::Queued => "waits for a worker of",
                Stage::Running => "runs on a worker of",
            };
            (job.say)(format!("silo: {} {stage} {url}", job.name));
        };
        let ran = remote.run(action, job.dir, &progress, job.stop)?;
        Ok((remote, ran))
    }

    fn fetched(&self, job: &Job<'_>) -> Result<String, Error> {
        let (remote, ran) = self.ran(job)?;
        if !ran.outputs.contains_key(away::REPORT) {
            let said = silo_base::sanitize::brief(&String::from_utf8_lossy(&ran.stderr));
            let what = format!("silo ended there with exit code {} and without a report: {said}", ran.exit);
            return Err(Error::Answer { url: self.settings.endpoint.url.clone(), what });
        }
        for (name, most) in &job.results {
            let Some(id) = ran.outputs.get(name) else { continue };
            let path = job.dir.join(Path::new(name).file_name().unwrap_or_default());
            let failed = |source| Error::File { doing: "write", path: path.clone(), source };
            let mut file = private::create(&path).map_err(failed)?;
            remote.download(*id, *most, &mut file, job.stop)?;
            file.flush().map_err(failed)?;
        }
        Ok(ran.worker)
    }
}

fn not_run(error: Error) -> NotRun {
    match error {
        Error::Stopped => NotRun::Stopped,
        Error::Queue { .. } => NotRun::Unfit(error.to_string()),
        error => NotRun::Failed(Box::new(error)),
    }
}

impl Pool for Workers {
    fn run(&self, job: &Job<'_>) -> Result<String, NotRun> {
        self.fetched(job).map_err(not_run)
    }

    fn fetch(&self, (layer, size): (LayerId, u64), out: &mut dyn Write, stop: &AtomicBool) -> Result<bool, NotRun> {
        let fetched = self.remote(stop).and_then(|remote| {
            let id = BlobId { digest: layer.digest(), size };
            let has = remote.has(id, stop)?;
            if has {
                remote.download(id, size, out, stop)?;
            }
            Ok(has)
        });
        fetched.map_err(not_run)
    }

    fn limit(&self) -> Duration {
        self.settings.limits.run
    }

    fn jobs(&self) -> usize {
        self.settings.jobs
    }

    fn arch(&self) -> Arch {
        self.settings.arch
    }

    fn places(&self) -> Vec<String> {
        vec![self.settings.endpoint.url.clone()]
    }

    fn describe(&self, worker: &str) -> String {
        let url = &self.settings.endpoint.url;
        if worker.is_empty() { format!("a worker of {url}") } else { format!("{worker} of {url}") }
    }
}

/// Hashes a file.
fn blob_of(path: &Path) -> io::Result<BlobId> {
    let mut hasher = HashingWriter::new(io::sink());
    io::copy(&mut File::open(path)?, &mut hasher)?;
    let (digest, size, _) = hasher.finish();
    Ok(BlobId { digest, size })
}
