//! Silo: dev tools in throw-away sandboxes, started from pinned, reproducible images.
//!
//! Modules are listed by level, lowest first; a module uses only modules above it in this list (`tests/architecture.rs` checks this).
//! `docs/architecture.md` is the overview.

// Basic types and text.
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

// I/O, one kind for each module.
pub mod identity;

pub mod broker;
pub mod ecosystem;

pub mod fetch;
pub mod image;
pub mod launch;
pub mod unpack;

pub mod registry;

// The project's repository and the files that the host executes.
pub mod git;

pub mod guard;

// Building and running.
pub mod build;
pub mod shim;

// The implementation of the commands.
pub mod tool;

// Reports about images and builds.
pub mod insight;

// From the command line to a launch spec.
pub mod run;

// The command line, one file per command.
pub mod cli;
