//! Why something could not be told of an image, and what to type next.

use std::path::PathBuf;

use silo_store::layer::LayerError;

use crate::tool::{definition, record};
use crate::{document, image};

/// Why something could not be told of an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool's record cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A project's tool cannot be told, or is not built.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A file that a person wrote cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The store could not be locked.
    #[error("cannot lock the layer store")]
    Lock(#[source] silo_store::PathError),
    /// A file could not be read.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the image is not as its format says.
    #[error("{path}: {what}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A word that names nothing that is here.
    #[error("\"{word}\" is {not}")]
    Unknown {
        /// The word.
        word: String,
        /// What it could have been.
        not: &'static str,
        /// What to type next.
        hint: String,
    },
    /// A word that names more than one thing.
    #[error("\"{word}\" may be {}", .candidates.join(", "))]
    Ambiguous {
        /// The word.
        word: String,
        /// What it may be.
        candidates: Vec<String>,
        /// What to type next.
        hint: String,
    },
    /// An image that is not here any more.
    #[error("image {image:.12} of {tool} is gone")]
    Gone {
        /// The tool.
        tool: String,
        /// The image.
        image: String,
    },
    /// Something that is not in the image.
    #[error("{what} is not in {place}")]
    Absent {
        /// What was asked for.
        what: String,
        /// Where it was looked for.
        place: String,
        /// What to type next.
        hint: String,
    },
}

impl Error {
    /// Returns what to type next, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unknown { hint, .. } | Error::Ambiguous { hint, .. } | Error::Absent { hint, .. } => Some(hint.clone()),
            Error::Gone { tool, .. } => Some(format!("silo install {tool}")),
            Error::Layer(_) | Error::Content { .. } => Some("`silo verify` tells what is not as it was made".to_owned()),
            Error::Image(image::Error::Config { .. }) => Some("`silo verify` tells what is not as it was made".to_owned()),
            Error::Definition(definition::Error::NotBuilt { .. }) => Some("run `silo sync`".to_owned()),
            Error::Definition(_) | Error::Record(_) | Error::Image(_) | Error::Document(_) | Error::Lock(_) | Error::File { .. } => None,
        }
    }
}
