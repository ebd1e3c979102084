//! Errors of inspecting an image, with hints.

use std::path::PathBuf;

use silo_store::layer::LayerError;
use silo_store::path_error::PathError;

use silo_build::image;
use silo_model::document;
use silo_tool::{definition, record};

/// Error of inspecting an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool's record cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A project's tool is not defined or not built.
    #[error(transparent)]
    Definition(#[from] definition::Error),
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// A user's recipe or settings file cannot be read.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// The store could not be locked.
    #[error("cannot lock the layer store")]
    Lock(#[source] silo_store::PathError),
    /// An operation on a file failed.
    #[error(transparent)]
    File(#[from] PathError),
    /// A file of the image is invalid.
    #[error("{path}: {what}", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// An argument matches nothing.
    #[error("\"{word}\" is {not}")]
    Unknown {
        /// The argument.
        word: String,
        /// The possible kinds.
        not: &'static str,
        /// The hint.
        hint: String,
    },
    /// An argument matches several things.
    #[error("\"{word}\" may be {}", .candidates.join(", "))]
    Ambiguous {
        /// The argument.
        word: String,
        /// The matches.
        candidates: Vec<String>,
        /// The hint.
        hint: String,
    },
    /// An image does not exist any more.
    #[error("image {image:.12} of {tool} is gone")]
    Gone {
        /// The tool.
        tool: String,
        /// The image.
        image: String,
    },
    /// The image does not have the requested path or package.
    #[error("{what} is not in {place}")]
    Absent {
        /// The requested path or package.
        what: String,
        /// The image or directory that was searched.
        place: String,
        /// The hint.
        hint: String,
    },
}

impl Error {
    /// Returns the hint, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Unknown { hint, .. } | Error::Ambiguous { hint, .. } | Error::Absent { hint, .. } => Some(hint.clone()),
            Error::Gone { tool, .. } => Some(format!("silo install {tool}")),
            Error::Layer(_) | Error::Content { .. } => Some("`silo verify` lists damaged files".to_owned()),
            Error::Image(image::Error::Config { .. }) => Some("`silo verify` lists damaged files".to_owned()),
            Error::Definition(definition::Error::NotBuilt { platform, .. }) => {
                let option = platform.as_ref().map_or_else(String::new, |platform| format!(" --platform {platform}"));
                Some(format!("run `silo sync{option}`"))
            }
            Error::Definition(_) | Error::Record(_) | Error::Image(_) | Error::Document(_) | Error::Lock(_) | Error::File(_) => None,
        }
    }
}
