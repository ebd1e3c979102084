//! Recipes: the contents of a tool, and how it runs.
//!
//! A recipe is a TOML file ([`file`]). A tool may have several (built in, the user's, the project's), which [`catalog`] merges. A
//! [`Recipe`] is the checked result.

pub mod kept_dirs;
pub mod package_spec;

pub mod error;

mod types;

pub mod check;

pub mod source;
pub mod steps;

pub mod debian;
pub mod lsp;
pub mod versions;

pub mod file;

pub mod requires;
pub mod texts;

pub mod catalog;

pub mod addon;

pub use types::{Activation, AptSource, Debian, LocalDeb, Lsp, OtherVersion, Probe, Recipe, Run, SHELL, Step, quoted};
