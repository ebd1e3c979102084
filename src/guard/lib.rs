//! Files of a project that host programs execute or load automatically: hooks, editor tasks, settings.
//!
//! Three rules, by the kind of path:
//!
//! * The repository (`.git`) has a private overlay inside, see [`crate::git`].
//! * A directory that contains only such files is mounted read-only. The mount survives when the host replaces files in it.
//! * A single file is mounted read-only too. That mount disappears when the host replaces the file by a rename. So single
//!   files are watched while a sandbox runs and compared with their content at its start. Every difference is reported,
//!   regardless of its author.
//!
//! In a subdirectory of the project, the same files act when a user enters or opens it. They are watched and compared, but not read-only,
//! because programs regularly write them in a project with many packages.
//!
//! A mount cannot guard a missing file; a new one is reported. The list (`obeyed.toml`) contains only files that act automatically: on
//! `cd`, on opening the directory, on `git status`. A Makefile or a package.json acts only when a user runs it, and is not listed.

pub mod git;

pub mod guarded_paths;
mod symlink_targets;

mod error;

mod fingerprint;

mod guards;

mod scan;

mod nested;

pub mod nearby_scan;

pub mod difference;

pub mod watch;

pub use error::Error;
pub use guards::{Guards, Obeyed};
pub use scan::{ScanOptions, scan_project};
pub use symlink_targets::within;

/// Default of `mount.maxGuarded`: maximum number of guarded or compared paths.
pub const MAX_GUARDED: usize = 8192;
