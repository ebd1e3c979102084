//! The repository of a project: read and written by file descriptor, without git on the host.
//!
//! Inside, `.git` is an overlay over the host's. A program's writes stay in that layer, and [`import`] imports only data: verified objects;
//! refs, under git's own lock files and only if the host has not moved them; the index, HEAD, reflogs and state files. Files that git acts
//! on are never imported: configuration, hooks, attributes, alternates.

pub mod dir_fd;
pub mod oid;

pub mod budget;
pub mod config;
pub mod index;
pub mod refs;

pub mod loose_object;
pub mod pack;

pub mod pack_index;

mod objects;
mod reflog;
mod start_state;

mod lock_file;
mod view;

mod object_store;

mod shallow;

mod import;

pub mod history;

pub mod repository;

pub mod layer_inputs;

pub mod layer;

pub mod leftover_layers;

pub mod config_paths;

/// Reason why a file of a sandbox is not imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it {0}")]
pub struct Refusal(&'static str);
