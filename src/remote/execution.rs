//! The execution of an action: its operation is followed until it is done, also over broken connections, and cancelled if the user stops.
//!
//! The server's cache of results is not asked: its entries prove nothing, since whoever can write to it can forge one.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use prost::Message;
use tonic::{Code, Status, Streaming};

use crate::blobs::BlobId;
use crate::connection::Connection;
use crate::error::Error;
use crate::messages as m;

const EXECUTE: &str = "/build.bazel.remote.execution.v2.Execution/Execute";
const WAIT: &str = "/build.bazel.remote.execution.v2.Execution/WaitExecution";
const CANCEL: &str = "/google.longrunning.Operations/CancelOperation";

/// Time for the request that cancels an operation.
const CANCEL_TIME: Duration = Duration::from_secs(5);
/// The most time beyond an action's own limit after which it counts as lost.
const SLACK: Duration = Duration::from_secs(120);

/// The stage of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for a worker.
    Queued,
    /// A worker runs it.
    Running,
}

/// Time limits of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time to wait for a worker.
    pub queue: Duration,
    /// The time to run.
    pub run: Duration,
}

/// The end of an execution.
pub(crate) enum Ended {
    /// It has a result.
    Done(m::ActionResult),
    /// The server lost an input; it must be uploaded again.
    LacksInputs,
}

/// Runs an action, and waits for its end.
pub(crate) fn execute(
    to: &Connection,
    action: BlobId,
    limits: Limits,
    progress: &dyn Fn(Stage),
    stop: &AtomicBool,
) -> Result<Ended, Error> {
    let mut operation = String::new();
    let done = follow(to, (action, limits), progress, &mut operation, stop);
    if matches!(done, Err(Error::Stopped | Error::Queue { .. } | Error::Timeout { .. })) && !operation.is_empty() {
        // The step would go on without us. A failure changes nothing about the result.
        let request = m::CancelOperationRequest { name: operation };
        let cancelled: Result<m::Empty, Error> = to.wait(&AtomicBool::new(false), async {
            tokio::time::timeout(CANCEL_TIME, to.call(CANCEL, request)).await.unwrap_or(Ok(m::Empty {}))
        });
        drop(cancelled);
    }
    done.map_err(|error| match error {
        // No request tells an engine's own limit.
        Error::Call { url, code: Code::InvalidArgument, text, .. } if text.to_lowercase().contains("timeout") => {
            Error::Limit { url, seconds: limits.run.as_secs(), text }
        }
        error => error,
    })
}

fn follow(
    to: &Connection,
    (action, limits): (BlobId, Limits),
    progress: &dyn Fn(Stage),
    operation: &mut String,
    stop: &AtomicBool,
) -> Result<Ended, Error> {
    let (began, mut started, mut has_stages) = (Instant::now(), None::<Instant>, false);
    to.again(stop, |advanced| {
        let mut stream: Streaming<m::Operation> = if operation.is_empty() {
            let request =
                m::ExecuteRequest { instance_name: to.instance.clone(), skip_cache_lookup: true, action_digest: Some(action.to_message()) };
            to.wait(stop, to.stream(EXECUTE, request))?
        } else {
            match to.wait(stop, to.stream(WAIT, m::WaitExecutionRequest { name: operation.clone() })) {
                // The server forgot the operation, for example after a restart: it is begun again.
                Err(error) if error.is_not_found() => {
                    operation.clear();
                    return Err(to.failed(WAIT, &Status::unavailable("the server forgot the step")));
                }
                opened => opened?,
            }
        };
        loop {
            let next = async { stream.message().await.map_err(|status| to.failed(EXECUTE, &status)) };
            let limited = async {
                // An engine that tells no stages may be running the step.
                let waiting = if has_stages { limits.queue } else { limits.queue + limits.run };
                let (since, limit) = started.map_or((began, waiting), |since| (since, limits.run + limits.run.min(SLACK)));
                match tokio::time::timeout(limit.saturating_sub(since.elapsed()), next).await {
                    Ok(next) => next,
                    Err(_) if started.is_none() && has_stages => Err(Error::Queue { url: to.url.clone(), seconds: limits.queue.as_secs() }),
                    Err(_) => Err(Error::Timeout { url: to.url.clone(), seconds: limits.run.as_secs() }),
                }
            };
            let Some(state) = to.wait(stop, limited)? else {
                return Err(to.failed(EXECUTE, &Status::unavailable("the server ended its answer before the step")));
            };
            *advanced = true;
            if !state.name.is_empty() {
                operation.clone_from(&state.name);
            }
            if state.done {
                return ended(to, state, limits);
            }
            let stage = stage(&state);
            has_stages |= stage.is_some();
            match stage {
                Some(Stage::Running) if started.is_none() => {
                    started = Some(Instant::now());
                    progress(Stage::Running);
                }
                Some(Stage::Queued) => progress(Stage::Queued),
                Some(Stage::Running) | None => {}
            }
        }
    })
}

fn stage(state: &m::Operation) -> Option<Stage> {
    let metadata = m::ExecuteOperationMetadata::decode(&*state.metadata.as_ref()?.value).ok()?;
    match metadata.stage {
        1 | 2 => Some(Stage::Queued),
        3 => Some(Stage::Running),
        _ => None,
    }
}

fn ended(to: &Connection, state: m::Operation, limits: Limits) -> Result<Ended, Error> {
    if let Some(error) = state.error {
        return refused(to, &error, limits);
    }
    let response = state.response.ok_or_else(|| to.odd("the step ended without a result"))?;
    let response = m::ExecuteResponse::decode(&*response.value).map_err(|_| to.odd("the result of the step is malformed"))?;
    match response.status {
        Some(status) if status.code != 0 => refused(to, &status, limits),
        _ => response.result.map(Ended::Done).ok_or_else(|| to.odd("the step ended without a result")),
    }
}

fn refused(to: &Connection, status: &m::Status, limits: Limits) -> Result<Ended, Error> {
    match Code::from_i32(status.code) {
        Code::FailedPrecondition => Ok(Ended::LacksInputs),
        Code::DeadlineExceeded => Err(Error::Timeout { url: to.url.clone(), seconds: limits.run.as_secs() }),
        // The operation has ended, so waiting for it again is useless.
        code => Err(Error::Answer {
            url: to.url.clone(),
            what: silo_base::sanitize::brief(&format!("the step failed there: {code:?}: {}", status.message)),
        }),
    }
}
