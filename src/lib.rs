//! Silo: dev tools in throw-away sandboxes, booted from pinned, reproducible images.
//!
//! The modules stand by floor, lowest first; a module uses only floors above it in this list
//! (`tests/architecture.rs` holds that). `docs/architecture.md` is the way through the house.

// Words.
pub mod amount;
pub mod event;
pub mod home;
pub mod moment;
pub mod plain;
pub mod system;
pub mod thread;

pub mod causes;

// Formats: text and bytes in, data out.
pub mod document;
pub mod grant;
pub mod oci;

pub mod derivation;
pub mod journal;
pub mod recipe;

pub mod config;
pub mod lock;

// Plans: pure.
pub mod plan;
pub mod resolve;

// Hands: one kind of I/O each.
pub mod identity;

pub mod broker;
pub mod ecosystem;

pub mod fetch;
pub mod image;
pub mod launch;
pub mod unpack;

pub mod registry;

// What of a project the host obeys.
pub mod git;

pub mod guard;

// Building and running.
pub mod build;
pub mod shim;

// What the verbs do.
pub mod tool;

// What can be told of the outcome.
pub mod insight;

// From what was typed to a launch spec.
pub mod run;

// The command line, one file a command.
pub mod cli;
