//! From what a user typed to a launch spec: the policy of a run.
//!
//! [`plan::plan`] reads the image, the recipe and the settings once, decides everything in one place, and returns a complete
//! launch spec with the leases that must be held while it runs. Nothing changes the spec afterwards. A program that embeds
//! Silo calls [`plan::plan`] and gives the spec to [`crate::launch`].

pub mod error;
pub mod grammar;
pub mod private;
pub mod user;

pub mod activate;
pub mod image;
pub mod moved;
pub mod owner;
pub mod spec;
pub mod target;
pub mod unseen;

pub mod lost;

pub mod explain;
pub mod worktree;

pub mod guarding;
pub mod repository;

pub mod activation;
pub mod mounts;
pub mod network;
pub mod tier;

pub mod environment;
pub mod leases;

pub mod plan;

/// Where a project also appears, whatever its own path is.
pub const WORKSPACE: &str = "/workspace";
