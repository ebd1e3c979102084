//! Recipes: what a tool is made of, and how it is run.
//!
//! A recipe is a TOML file ([`file`]); the same tool may have several (built in, the user's, the
//! project's), which [`catalog`] lays over one another. A [`Recipe`] is the checked result.

pub mod kept;
pub mod lsp;
pub mod versions;
pub mod wanted;

pub mod error;

pub mod debian;
pub mod file;
pub mod source;

pub mod requires;
pub mod texts;

pub mod catalog;

pub mod addon;

use std::collections::BTreeMap;

use kept::Kept;
use lsp::Lsp;
use source::{AptSource, LocalDeb};

/// What one tool is made of, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The tool's name: lower-case letters, digits and `-`.
    pub name: String,
    /// One line for lists.
    pub description: String,
    /// When and where it was last tried whole, if it was.
    pub tested: Option<String>,
    /// Its version, where that is not a package's.
    pub version: Option<String>,
    /// Other versions that it can be had in, each with a label or an empty text.
    pub versions: BTreeMap<String, String>,
    /// The tools that it is built on; what they are made of is in the other fields already.
    pub requires: Vec<String>,
    /// The image of somebody else's that it is made of, instead of packages.
    pub image: Option<String>,
    /// The packages of its root.
    pub debian: Debian,
    /// Commands run in the root when it is built, in order; each one's changes become a layer.
    pub steps: Vec<Step>,
    /// What the steps of the tool may reach unless they say otherwise, sorted.
    pub install_allow: Vec<String>,
    /// How to learn which names package ecosystems are, by name.
    pub ecosystems: BTreeMap<String, Probe>,
    /// How it is run.
    pub run: Run,
    /// Its language server, where it has one; no part of its image.
    pub lsp: Option<Lsp>,
}

/// A command run in a tool's root when it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The program and its arguments.
    pub run: Vec<String>,
    /// What it may reach: names, or ecosystems such as `@pypi`; sorted.
    pub network: Vec<String>,
    /// Environment variables set for it.
    pub env: BTreeMap<String, String>,
    /// Whether it sees the project's files, read-only at `/workspace`.
    pub project: bool,
}

impl Step {
    /// Returns the command as a person would type it.
    pub fn shown(&self) -> String {
        match self.run.as_slice() {
            [sh, flag, script] if sh == SHELL && flag == "-c" => script.clone(),
            words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        }
    }
}

/// The most letters of a step's title.
const TITLE_CHARS: usize = 400;

impl Step {
    /// Returns one line that tells which step it is: the command, or of one with several lines the first, which may be a comment.
    pub fn title(&self) -> String {
        let shown = self.shown();
        let mut lines = shown.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let mut title: String = first.trim_start_matches(['#', ' ']).chars().take(TITLE_CHARS).collect();
        if lines.next().is_some() || first.chars().count() > TITLE_CHARS {
            title.push_str(" …");
        }
        title
    }
}

/// The shell that runs commands which are given as one string.
pub const SHELL: &str = "/bin/sh";

/// Quotes a word for a shell, where it needs that.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-_./:=@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// A command that asks a package ecosystem for something, from which the names it needs are learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The program and its arguments.
    pub run: Vec<String>,
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
    /// The packages wanted over the recipe's own, sorted.
    pub added: Vec<String>,
    /// The packages that are there while the steps run, and not in the image, sorted.
    pub build: Vec<String>,
    /// Whether recommended packages come too.
    pub recommends: bool,
    /// The package whose upstream version is the tool's.
    pub version_of: String,
    /// Other apt archives, sorted.
    pub sources: Vec<AptSource>,
    /// The .deb files beside the recipe, sorted.
    pub debs: Vec<LocalDeb>,
    /// The answers to debconf's questions, sorted.
    pub answers: Vec<String>,
}

/// How a tool is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// Its arguments where a run has none.
    pub arguments: Option<Vec<String>>,
    /// Other commands of the tool, by the name a user types.
    pub shims: BTreeMap<String, Vec<String>>,
    /// Directories of a project that change how it is run.
    pub activate: Vec<Activation>,
    /// Environment variables set inside.
    pub env: BTreeMap<String, String>,
    /// Environment variables of the caller that are handed in where set.
    pub pass_env: Vec<String>,
    /// Package caches that outlive a run.
    pub cache: Vec<Kept>,
    /// Private state that outlives a run.
    pub state: Vec<Kept>,
    /// What it may reach: names, or ecosystems such as `@pypi`; sorted.
    pub network: Vec<String>,
    /// Processors that a run may use at once, where limited.
    pub cpus: Option<u32>,
    /// Memory that a run may use in MiB, where limited.
    pub memory_mb: Option<u64>,
    /// What runs once in a virtual machine before its snapshot is taken; nothing of the tool's where it is empty.
    pub warm_up: Vec<String>,
}

/// A directory of a project that changes how a tool is run, such as `.venv`. It is no part of the tool's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The directory, relative to a directory of the project.
    pub dir: String,
    /// What must be in it.
    pub has: Option<String>,
    /// A variable that is set to the directory's path.
    pub variable: Option<String>,
    /// A directory in it whose programs come first.
    pub path: Option<String>,
    /// Names in it that carry the version of the tool that made it, such as `lib/python3.*`.
    pub made_by: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_line() {
        for (script, title) in [
            ("make", "make"),
            ("\n  # the whole\nmake\n", "the whole …"),
            ("a\n\n", "a"),
            (&"é".repeat(401), &format!("{} …", "é".repeat(400))),
        ] {
            let run = vec![SHELL.to_owned(), "-c".to_owned(), script.to_owned()];
            assert_eq!(Step { run, network: Vec::new(), env: BTreeMap::new(), project: false }.title(), title);
        }
    }
}
