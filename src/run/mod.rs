//! The policy of a run: turns the user's command line into a launch spec.
//!
//! [`plan::plan`] reads the image, the recipe and the settings once, decides everything in one place, and returns a complete launch spec
//! with the leases to hold during the run. Nothing changes the spec afterwards. A program that embeds Silo calls [`plan::plan`] and passes
//! the spec to [`silo_launch`].

pub mod error;
pub mod grammar;
pub mod private_dirs;
pub mod user;

pub mod activate;
pub mod image;
pub mod invisible_files;
pub mod moved_project;
pub mod project_owner;
pub mod spec;
pub mod target;

pub mod find_program;
pub mod server_messages;

pub mod libraries;
pub mod lost_installs;

pub mod absent;

pub mod explain;
pub mod worktree;

pub mod repository;
pub mod reviewing;
pub mod watch_project;

pub mod activation;
pub mod mounts;
pub mod network;
pub mod secrets;
pub mod tier;

pub mod environment;
pub mod leases;
pub mod rights_record;

pub mod first_start;
pub mod terminfo;
pub mod time_zone;

pub mod plan;

/// Second mount point of every project.
pub const WORKSPACE: &str = "/workspace";
