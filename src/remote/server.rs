//! A server: its capabilities, and the whole way of an action, from the upload of its inputs to the names of its results.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::action::{self, Action};
use crate::blobs::{self, BlobId, Blobs};
use crate::connection::{Connection, Endpoint};
use crate::error::Error;
use crate::execution::{self, Ended, Stage};
use crate::messages as m;

const CAPABILITIES: &str = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities";

/// The number of SHA-256 among the digest functions.
const SHA256: i32 = 1;
/// Attempts to run an action whose inputs the server loses.
const ATTEMPTS: usize = 3;

/// A server that executes actions.
pub struct Remote {
    connection: Connection,
    batch_bytes: u64,
}

/// The end of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The exit code of the command.
    pub exit: i32,
    /// The files that it wrote, by path.
    pub outputs: BTreeMap<String, BlobId>,
    /// The start of its standard error.
    pub stderr: Vec<u8>,
    /// The name of the worker, as the server tells it.
    pub worker: String,
    /// Number of blobs that were uploaded.
    pub sent: usize,
    /// Bytes of these.
    pub bytes: u64,
}

impl Remote {
    /// Connects to a server, and checks that it executes actions.
    pub fn connect(endpoint: &Endpoint, stop: &AtomicBool) -> Result<Remote, Error> {
        let connection = Connection::new(endpoint)?;
        let request = m::GetCapabilitiesRequest { instance_name: connection.instance.clone() };
        let told: m::ServerCapabilities = connection.unary(stop, CAPABILITIES, request)?;
        if !told.execution_capabilities.is_some_and(|execution| execution.exec_enabled) {
            return Err(connection.odd("it executes no actions"));
        }
        let cache = told.cache_capabilities.unwrap_or_default();
        if !cache.digest_functions.contains(&SHA256) {
            return Err(connection.odd("it does not name blobs by SHA-256"));
        }
        Ok(Remote { connection, batch_bytes: u64::try_from(cache.max_batch_total_size_bytes).unwrap_or(0) })
    }

    /// Runs an action; `temp` is a directory for blobs that are made.
    pub fn run(&self, mut action: Action<'_>, temp: &Path, progress: &dyn Fn(Stage), stop: &AtomicBool) -> Result<Ran, Error> {
        let id = action::encode(&mut action);
        let (mut sent, mut bytes) = (0, 0);
        for _ in 0..ATTEMPTS {
            let uploaded = self.upload(&action.blobs, temp, stop)?;
            (sent, bytes) = (sent + uploaded.0, bytes + uploaded.1);
            if let Ended::Done(result) = execution::execute(&self.connection, id, action.limits, progress, stop)? {
                return self.ran(&action, result, (sent, bytes));
            }
        }
        Err(self.connection.odd("it loses the inputs of the step"))
    }

    fn ran(&self, action: &Action<'_>, result: m::ActionResult, (sent, bytes): (usize, u64)) -> Result<Ran, Error> {
        let mut outputs = BTreeMap::new();
        for file in &result.output_files {
            let id = file.digest.as_ref().and_then(BlobId::of_message);
            let id = id.ok_or_else(|| self.connection.odd("the result of the step names a malformed digest"))?;
            if !action.outputs.contains(&file.path) {
                return Err(self.connection.odd("the result of the step has a file that was not asked for"));
            }
            outputs.insert(file.path.clone(), id);
        }
        let worker = silo_base::sanitize::brief(&result.execution_metadata.unwrap_or_default().worker);
        Ok(Ran { exit: result.exit_code, outputs, stderr: result.stderr_raw, worker, sent, bytes })
    }

    /// Uploads the blobs that the server lacks; returns their number and bytes. `temp` is a directory for blobs that are made.
    pub fn upload(&self, blobs: &Blobs<'_>, temp: &Path, stop: &AtomicBool) -> Result<(usize, u64), Error> {
        blobs::upload(&self.connection, blobs, self.batch_bytes, temp, stop)
    }

    /// Checks if the server has a blob.
    pub fn has(&self, id: BlobId, stop: &AtomicBool) -> Result<bool, Error> {
        Ok(blobs::missing(&self.connection, &[id], stop)?.is_empty())
    }

    /// Downloads a blob; one that is larger than `most` is refused.
    pub fn download(&self, id: BlobId, most: u64, out: &mut dyn Write, stop: &AtomicBool) -> Result<(), Error> {
        if id.size > most {
            return Err(self.connection.odd(format!("a file of the step has {} bytes; at most {most} are taken", id.size)));
        }
        blobs::download(&self.connection, id, out, stop)
    }
}
