//! Errors of a build.

use std::path::PathBuf;

use silo_store::digest::{Digest, LayerId};
use silo_store::path_error::PathError;

use silo_base::error_chain;
use silo_base::thread::NoThread;
use silo_model::ecosystem;

/// Error of a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock has no packages for the architecture.
    #[error("the lock of {recipe} holds no packages for {arch}")]
    NoPackages {
        /// The recipe.
        recipe: String,
        /// The architecture.
        arch: silo_base::system::Arch,
    },
    /// A step is for another architecture, and there is no VM of it.
    #[error("build steps for {} run in a virtual machine: {why}", .arch.platform())]
    NoMachine {
        /// The architecture.
        arch: silo_base::system::Arch,
        /// The reason.
        why: String,
        /// The command to type next.
        hint: Option<String>,
    },
    /// A step needs a VM that counts instructions, and there is none.
    #[error("a step with `deterministic` runs in an emulated virtual machine: {why}")]
    NotCounted {
        /// The reason.
        why: String,
        /// The command to type next.
        hint: Option<String>,
    },
    /// Fetching a file failed.
    #[error(transparent)]
    Fetch(#[from] silo_fetch::error::Error),
    /// Unpacking a package failed.
    #[error(transparent)]
    Unpack(#[from] silo_fetch::unpack::deb::Error),
    /// A request to the image's registry failed.
    #[error(transparent)]
    Registry(#[from] silo_fetch::registry::Error),
    /// Unpacking a layer of a base image failed.
    #[error(transparent)]
    Layer(#[from] silo_fetch::unpack::layer::Error),
    /// The package record of a layer is invalid.
    #[error(transparent)]
    Record(#[from] silo_fetch::unpack::record::Error),
    /// The store failed.
    #[error("the layer store failed while {doing}")]
    Store {
        /// The operation.
        doing: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An operation on a file outside the store failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// Starting a step failed.
    #[error("cannot start a build step")]
    Launch(#[from] silo_launch::error::Error),
    /// A step's command failed.
    #[error("{name} failed ({exit}); the log is {log}\n{tail}", log = .log.display())]
    Step {
        /// The step.
        name: String,
        /// Exit code or signal.
        exit: String,
        /// Path of the log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
        /// The derivation, if the root of the step was kept for `silo debug`.
        kept: Option<String>,
    },
    /// A step could not run on another machine.
    #[error("{name} could not run on a worker: {why}")]
    Away {
        /// The step.
        name: String,
        /// The reason.
        why: String,
    },
    /// A worker's layer of a step is not that of this machine.
    #[error("{name}: {} made layer {:.12}, and this machine {:.12}", worker_of(.worker), .away.to_string(), .here.to_string())]
    OtherResult {
        /// The step.
        name: String,
        /// The worker.
        worker: String,
        /// Its layer.
        away: LayerId,
        /// The layer that was made here.
        here: LayerId,
    },
    /// A step exceeded a limit and was stopped.
    #[error("{name} was ended: {what}")]
    Budget {
        /// The step.
        name: String,
        /// The exceeded limit.
        what: String,
    },
    /// The lock must pin the output of a step, and does not.
    #[error("the output of `{command}` is not in the lock, and --frozen is set")]
    NotPinned {
        /// The command.
        command: String,
    },
    /// A step needs the network, which the command may not use.
    #[error("`{command}` needs the network, and --offline is set")]
    Offline {
        /// The command.
        command: String,
    },
    /// A step asks for something that its record lacks.
    #[error("`{command}` asks for {method} {url}, which its record lacks{}", more(*.others))]
    NoResponse {
        /// The command.
        command: String,
        /// The method of the first request.
        method: String,
        /// Its address.
        url: String,
        /// The number of other requests.
        others: usize,
    },
    /// A recorded response is not on this machine.
    #[error("the record of `{command}` has no bytes for {method} {url}: sha256:{digest} is not on this machine{}", more(*.others))]
    LostResponse {
        /// The command.
        command: String,
        /// The method of the first request.
        method: String,
        /// Its address.
        url: String,
        /// The digest of the body.
        digest: Digest,
        /// The number of other requests.
        others: usize,
    },
    /// A record is not on this machine, or is malformed.
    #[error("the record of `{command}` cannot be used: {what}")]
    NoRecord {
        /// The command.
        command: String,
        /// The reason.
        what: String,
    },
    /// The output of a step differs from the lock.
    #[error("the output of `{command}` differs from the lock: layer {made:.12}, but {pinned:.12} is locked\n{told}", made = .made.to_string(), pinned = .pinned.to_string())]
    OtherOutput {
        /// The command.
        command: String,
        /// The pinned layer.
        pinned: LayerId,
        /// The actual layer.
        made: LayerId,
        /// The differences, a line each.
        told: String,
    },
    /// A step that only recorded owners made another layer than the locked one.
    #[error("{name}: without real owners the step made layer {made:.12}, but {pinned:.12} is locked", made = .made.to_string(), pinned = .pinned.to_string())]
    Recorded {
        /// The step.
        name: String,
        /// The pinned layer.
        pinned: LayerId,
        /// The actual layer.
        made: LayerId,
    },
    /// A step needs the project's files, but the build has no project.
    #[error("`{command}` needs the project's files, but there is no project here")]
    NoProject {
        /// The command.
        command: String,
    },
    /// The project cannot be opened.
    #[error("cannot open the project for `{command}`")]
    Project {
        /// The command.
        command: String,
        /// The cause.
        source: silo_launch::open_checked::Error,
    },
    /// Neither silo.toml nor the recipe gives the host names of an ecosystem.
    #[error("the host names of @{name} are unknown: silo.toml does not list them, and the recipe of {recipe} has no probe for them")]
    Ecosystem {
        /// The ecosystem.
        name: String,
        /// The recipe.
        recipe: String,
    },
    /// The client that a probe starts is not in the root.
    #[error("cannot learn the host names of @{name}: {program} is not in the image before this step")]
    NoClient {
        /// The ecosystem.
        name: String,
        /// The program of the probe.
        program: String,
    },
    /// The probe of an ecosystem failed.
    #[error("cannot learn the host names of @{name}: its probe failed ({exit}); the log is {log}\n{tail}", log = .log.display())]
    Probe {
        /// The ecosystem.
        name: String,
        /// Exit code or signal of the probe.
        exit: String,
        /// Path of the log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// Reading or storing the host names of an ecosystem failed.
    #[error(transparent)]
    Learned(Box<ecosystem::Error>),
    /// A dependency shared with another tool failed; the error is reported with that tool.
    #[error("a shared dependency failed (see above)")]
    Shared,
    /// Several independent errors; see [`Error::of_all`].
    #[error("{count} errors:\n{told}", count = .0.len(), told = describe(.0))]
    Several(Vec<Error>),
    /// A step made a file that an image must not have.
    #[error("a step left {path}: {why}")]
    Refused {
        /// The path in the image.
        path: String,
        /// The reason.
        why: &'static str,
    },
    /// The dpkg database of a layer is invalid.
    #[error("layer {layer}: {what}")]
    Database {
        /// The layer.
        layer: LayerId,
        /// The fault.
        what: String,
    },
    /// A realisation names a layer that is not in the store.
    #[error("{digest} is missing from the store; run `silo verify`")]
    Lost {
        /// The missing digest.
        digest: Digest,
    },
    /// The user stopped the build.
    #[error("stopped")]
    Stopped,
    /// Composing the image failed.
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    /// The system refused to start a thread.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The reference of the base image is invalid.
    #[error("\"{image}\" is not the name of an image: {what}")]
    Reference {
        /// The reference.
        image: String,
        /// The fault.
        what: String,
    },
    /// A worker panicked; its message is on standard error.
    #[error("a worker ended before its work was done")]
    Worker,
    /// The build did something in the wrong order.
    #[error("{what}; this is a fault of silo, please report it")]
    Fault {
        /// The fault.
        what: String,
    },
}

impl From<ecosystem::Error> for Error {
    fn from(error: ecosystem::Error) -> Error {
        Error::Learned(Box::new(error))
    }
}

impl Error {
    /// Combines all errors of a build, of which there is at least one. A full disk causes many errors at a time: it is reported once, with
    /// only the errors that have another cause.
    pub fn of_all(errors: Vec<Error>) -> Error {
        let (mut full, mut told): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| error_chain::is_full_disk(error));
        full.truncate(1);
        told.append(&mut full);
        match told.pop() {
            Some(alone) if told.is_empty() => alone,
            Some(last) => {
                told.push(last);
                Error::Several(told)
            }
            None => Error::Shared,
        }
    }

    /// Describes a fault of the build itself.
    pub fn fault(what: impl Into<String>) -> Error {
        Error::Fault { what: what.into() }
    }

    /// Wraps an error of the store with the operation.
    pub fn store(doing: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Store { doing: doing.into(), source: Box::new(source) }
    }
}

/// Names a worker.
fn worker_of(name: &str) -> String {
    if name.is_empty() { "a worker".to_owned() } else { format!("the worker {name}") }
}

/// Names the number of further requests.
fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " (and 1 other request)".to_owned(),
        many => format!(" (and {many} other requests)"),
    }
}

/// Renders several errors as a list, each with its causes.
fn describe(errors: &[Error]) -> String {
    let told: Vec<String> = errors.iter().map(|error| format!("- {}", error_chain::of(error).join(": "))).collect();
    told.join("\n")
}
