//! Recipes: what a tool is made of, and how it is run.
//!
//! A recipe is a TOML file ([`file`]); the same tool may have several (built in, the user's, the
//! project's), which [`catalog`] lays over one another. A [`Recipe`] is the checked result.

pub mod file;

pub mod catalog;

use std::collections::BTreeMap;

/// What one tool is made of, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The tool's name: lower-case letters, digits and `-`.
    pub name: String,
    /// One line for lists.
    pub description: String,
    /// The packages of its root.
    pub debian: Debian,
    /// How it is run.
    pub run: Run,
}

/// A root made of Debian packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    /// The release's codename, such as `trixie`.
    pub suite: String,
    /// The archive's areas, sorted.
    pub components: Vec<String>,
    /// The packages wanted besides the essential ones, sorted.
    pub packages: Vec<String>,
    /// Whether recommended packages come too.
    pub recommends: bool,
    /// The package whose upstream version is the tool's.
    pub version_of: String,
}

/// How a tool is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Other commands of the tool, by the name a user types.
    pub shims: BTreeMap<String, Vec<String>>,
    /// Environment variables set inside.
    pub env: BTreeMap<String, String>,
    /// Environment variables of the caller that are handed in where set.
    pub pass_env: Vec<String>,
    /// Processors that a run may use at once, where limited.
    pub cpus: Option<u32>,
    /// Memory that a run may use in MiB, where limited.
    pub memory_mb: Option<u64>,
}
