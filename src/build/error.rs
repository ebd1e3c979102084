//! Why a build failed.

use std::path::PathBuf;

use silo_store::digest::{Digest, LayerId};

use crate::thread::NoThread;
use crate::{causes, ecosystem};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock holds nothing for the architecture.
    #[error("the lock of {recipe} holds no packages for {arch}")]
    NoPackages {
        /// The recipe.
        recipe: String,
        /// The architecture.
        arch: crate::system::Arch,
    },
    /// A file could not be fetched.
    #[error(transparent)]
    Fetch(#[from] crate::fetch::error::Error),
    /// A package could not be unpacked.
    #[error(transparent)]
    Unpack(#[from] crate::unpack::deb::Error),
    /// An image's registry cannot be asked.
    #[error(transparent)]
    Registry(#[from] crate::registry::Error),
    /// A layer of an image could not be unpacked.
    #[error(transparent)]
    Layer(#[from] crate::unpack::layer::Error),
    /// A layer is not what it should be.
    #[error(transparent)]
    Record(#[from] crate::unpack::record::Error),
    /// The store refused.
    #[error("the layer store failed while {doing}")]
    Store {
        /// What was being done.
        doing: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file outside the store could not be read or written.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A step could not be started.
    #[error("cannot start a build step")]
    Launch(#[from] crate::launch::error::Error),
    /// A step's command failed.
    #[error("{name} failed ({exit}); the log is {log}\n{tail}", log = .log.display())]
    Step {
        /// The step.
        name: String,
        /// How it ended.
        exit: String,
        /// Where all it said is kept.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
        /// Its derivation, where the root that it left was kept for a look into it.
        kept: Option<String>,
    },
    /// A step was ended because it took too much.
    #[error("{name} was ended: {what}")]
    Budget {
        /// The step.
        name: String,
        /// What it did.
        what: String,
    },
    /// A step's result must be pinned by the lock, and is not.
    #[error("the lock does not say what `{command}` comes to, and --frozen forbids finding out")]
    NotPinned {
        /// The command.
        command: String,
    },
    /// A step came to something else than the lock says.
    #[error("`{command}` came to layer {made:.12} where the lock has {pinned:.12}\n{told}", made = .made.to_string(), pinned = .pinned.to_string())]
    OtherOutput {
        /// The command.
        command: String,
        /// What the lock says.
        pinned: LayerId,
        /// What it came to.
        made: LayerId,
        /// Where the two differ, in lines.
        told: String,
    },
    /// A step wants to see the project, and there is none.
    #[error("`{command}` needs the project's files, and there is no project here")]
    NoProject {
        /// The command.
        command: String,
    },
    /// The project cannot be opened.
    #[error("`{command}` needs the project's files")]
    Project {
        /// The command.
        command: String,
        /// Why not.
        source: crate::launch::opened::Error,
    },
    /// Nothing says which names an ecosystem is.
    #[error("nothing says which names @{name} is: silo.toml does not, and the recipe of {recipe} has no probe for it")]
    Ecosystem {
        /// The ecosystem.
        name: String,
        /// The recipe.
        recipe: String,
    },
    /// An ecosystem could not be learned.
    #[error("cannot learn which names @{name} is: its probe failed ({exit}); the log is {log}\n{tail}", log = .log.display())]
    Probe {
        /// The ecosystem.
        name: String,
        /// How the probe ended.
        exit: String,
        /// Where all it said is kept.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// What was learned of an ecosystem could not be read or kept.
    #[error(transparent)]
    Learned(Box<ecosystem::Error>),
    /// What it shares with another tool failed, and was told there.
    #[error("what it shares with another tool failed")]
    Shared,
    /// Several failed, each for itself; see [`Error::of_all`].
    #[error("{count} things failed:\n{told}", count = .0.len(), told = told(.0))]
    Several(Vec<Error>),
    /// A step made something that an image must not hold.
    #[error("a step left {path}: {why}")]
    Refused {
        /// The path inside.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// The dpkg database of a layer cannot be read.
    #[error("layer {layer}: {what}")]
    Database {
        /// The layer.
        layer: LayerId,
        /// What is wrong.
        what: String,
    },
    /// A realisation names a layer that is not there.
    #[error("the store has lost {digest}; run `silo verify`")]
    Lost {
        /// What was looked for.
        digest: Digest,
    },
    /// The user stopped it.
    #[error("stopped")]
    Stopped,
    /// The image could not be put together.
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    /// The system refuses the threads that the build needs.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// A worker panicked; its message is on standard error.
    #[error("a worker ended before its work was done")]
    Worker,
}

impl From<ecosystem::Error> for Error {
    fn from(error: ecosystem::Error) -> Error {
        Error::Learned(Box::new(error))
    }
}

impl Error {
    /// Makes one error of all that failed, of which there is at least one. A full disk fails much at once: it is told
    /// once, and beside it only what failed for another reason.
    pub fn of_all(errors: Vec<Error>) -> Error {
        let (mut full, mut told): (Vec<_>, Vec<_>) = errors.into_iter().partition(|error| causes::is_full_disk(error));
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

    /// Wraps what the store said while `doing` something.
    pub fn store(doing: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Store { doing: doing.into(), source: Box::new(source) }
    }
}

/// Tells each of several errors, with its causes.
fn told(errors: &[Error]) -> String {
    let told: Vec<String> = errors.iter().map(|error| format!("- {}", causes::of(error).join(": "))).collect();
    told.join("\n")
}
