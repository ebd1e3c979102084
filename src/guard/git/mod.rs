//! The repository of a project: read and written by descriptor, without a git on the host.
//!
//! Inside, `.git` is a layer over the host's. What a program writes there stays in that layer, and [`import`] takes over what
//! is only data: objects, each verified; refs, under git's own lock files and only where the host has not moved them in the
//! meantime; the index, HEAD, logs and the files that git keeps of what it is in the middle of. Nothing that git obeys comes
//! back: no configuration, hooks, attributes, alternates.

pub mod dir;
pub mod oid;

pub mod budget;
pub mod config;
pub mod index;
pub mod refs;

pub mod loose;
pub mod pack;

pub mod packidx;

mod begin;
mod objects;
mod reflog;

mod lock;
mod view;

mod import;

pub mod repository;

pub mod over;

pub mod layer;

pub mod left;

pub mod named;

/// Why something of a sandbox is not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it {0}")]
pub struct Refusal(&'static str);
