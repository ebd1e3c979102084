//! Silo: dev tools in throw-away sandboxes, started from pinned, reproducible images.
//!
//! The command line: each package under `src/` does one part of the work. `docs/architecture.md` explains them.

// From a command line to a launch spec.
pub mod run;

// One file a command.
pub mod cli;
