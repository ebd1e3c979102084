//! Errors of pushing and pulling.

use std::time::Duration;

use silo_base::sanitize::brief;
use silo_base::thread::NoThread;
use silo_store::digest::LayerId;
use silo_store::path_error::PathError;

/// Error of a push or pull.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository failed, or holds something else.
    #[error(transparent)]
    Registry(#[from] silo_fetch::registry::Error),
    /// A download failed.
    #[error(transparent)]
    Fetch(#[from] silo_fetch::error::Error),
    /// The image cannot be read or written.
    #[error(transparent)]
    Image(#[from] silo_build::image::Error),
    /// A layer of the store cannot be read.
    #[error(transparent)]
    Layer(#[from] silo_store::layer::LayerError),
    /// A layer cannot be packed or unpacked.
    #[error("layer {layer}")]
    Form {
        /// The layer.
        layer: LayerId,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The layers cannot be merged for programs that stack few layers.
    #[error("the layers cannot be merged")]
    Merge(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// The repository has no such tag or digest.
    #[error("{place} has no {name}")]
    Absent {
        /// The repository.
        place: String,
        /// The tag or digest.
        name: String,
    },
    /// A document is malformed, or does not fit to another one.
    #[error("{place}: {}", brief(.what))]
    Document {
        /// The repository, with the tag or digest.
        place: String,
        /// The fault, which may quote the document. A message shows the start.
        what: String,
    },
    /// A document would be longer than a pull reads.
    #[error("the image is not pushed: {name} would have {bytes} bytes, and a pull reads at most {most}")]
    TooLong {
        /// The document.
        name: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// A document would be refused by a pull.
    #[error("the image is not pushed, because a pull would refuse its contents: {}", brief(.0))]
    Unreadable(String),
    /// The image was not pushed by Silo.
    #[error("{place} is an image, but silo did not push it")]
    Foreign {
        /// The repository, with the tag or digest.
        place: String,
    },
    /// A signature of an index would cover an image of another platform that no trusted key signed.
    #[error("{place} also names an image for {platform}, which is not signed by a key that you trust")]
    Unsigned {
        /// The repository and the tag.
        place: String,
        /// The other platform.
        platform: &'static str,
    },
    /// The signatures of an image arrive too slowly.
    #[error("{place}: its signatures did not arrive within {} s", time.as_secs_f32())]
    Slow {
        /// The repository and the digest.
        place: String,
        /// The time.
        time: Duration,
    },
    /// A signature could not be made.
    #[error("the image was not signed")]
    Sign(#[from] silo_sign::external::SignError),
    /// The system started no thread.
    #[error(transparent)]
    Thread(#[from] NoThread),
    /// The user stopped the command.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// Returns a form error about a layer.
    pub(crate) fn form(layer: LayerId, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Form { layer, source: Box::new(source) }
    }

    /// Returns true if the user stopped the command.
    pub fn is_stopped(&self) -> bool {
        use silo_fetch::error::Error as Fetch;
        use silo_fetch::registry::Error as Registry;
        matches!(self, Error::Stopped | Error::Fetch(Fetch::Cancelled) | Error::Registry(Registry::Fetch(Fetch::Cancelled)))
    }

    /// Returns a hint for the user, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Registry(error) => error.hint(),
            Error::Fetch(error) => error.hint(),
            Error::Absent { .. } => Some("is the name right, and the tag? `silo inspect` shows an image of a registry".to_owned()),
            Error::Foreign { .. } => Some("`silo install NAME --image REF` makes a tool from an image of another program".to_owned()),
            Error::Unsigned { .. } => Some(
                "a signature of this tag would cover that image too; push to another tag, `silo key trust` the key of its publisher, or push with --no-sign"
                    .to_owned(),
            ),
            Error::TooLong { .. } | Error::Unreadable(_) => {
                Some("fewer packages or steps make it smaller; `silo export --oci` writes the image for other programs".to_owned())
            }
            Error::Layer(_) | Error::Form { .. } => Some("`silo verify` lists the changed files".to_owned()),
            Error::Image(_)
            | Error::Merge(_)
            | Error::File(_)
            | Error::Document { .. }
            | Error::Slow { .. }
            | Error::Sign(_)
            | Error::Thread(_)
            | Error::Stopped => None,
        }
    }
}
