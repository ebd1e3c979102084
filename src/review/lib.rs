//! Review: the changes of a sandbox stay in a private layer over the project until a person applies or discards them.
//!
//! The project is the lower directory of an overlay, and the upper directory is in Silo's home. A sandboxed program wrote the upper
//! directory, so it is read by file descriptor, without following symlinks, and within limits. The host's files are compared with their
//! state at the first moment of the review, so that nothing that changed here is overwritten.

pub mod error;

pub mod mark;

pub mod base;

pub mod session;

pub mod changes;

pub mod conflict;

pub mod view;

mod bare_repository;
pub mod executed;
pub mod ignored;
pub mod lookalike;
pub mod names;
pub mod packages;

pub mod weigh;

pub mod commits;

pub mod difference;

pub mod report;

pub mod html;

pub mod choose;
mod contents;
mod copying;
mod record_text;

pub mod plan;

mod decisions;
pub mod entries;
mod exchange;
mod release;

mod steps;

pub mod finish;

pub mod apply;
pub mod browser;
pub mod discard;

pub mod stored_reviews;

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod later_edits;

pub use error::Error;
