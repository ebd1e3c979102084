//! A checked recipe, as the rest of Silo uses it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use silo_base::grant::Grant;

use silo_store::digest::Digest;

use crate::derivation::Repeats;
use crate::review::Review;

use super::kept_dirs::KeptDir;

/// A checked recipe of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Name of the tool: lower-case letters, digits and `-`.
    pub name: String,
    /// Description in one line.
    pub description: String,
    /// Date and architecture of the last complete test.
    pub tested: Option<String>,
    /// Version, if it is not that of a package.
    pub version: Option<String>,
    /// Other available versions.
    pub versions: BTreeMap<String, OtherVersion>,
    /// Name of the lock of this version among the recipe's locks.
    pub lock_name: String,
    /// Required tools; their contents are merged into the other fields already.
    pub requires: Vec<String>,
    /// Container image used instead of packages.
    pub image: Option<String>,
    /// Packages of the root file system.
    pub debian: Debian,
    /// Build commands, in order; the changes of each become a layer.
    pub steps: Vec<Step>,
    /// Default hosts that build commands may connect to, sorted.
    pub install_allow: Vec<Grant>,
    /// Probes of package ecosystems, by name.
    pub ecosystems: BTreeMap<String, Probe>,
    /// Options of a run.
    pub run: Run,
    /// Language server; not part of the image.
    pub lsp: Option<Lsp>,
}

impl Recipe {
    /// Returns the other versions with their labels.
    pub fn version_labels(&self) -> BTreeMap<&str, &str> {
        self.versions.iter().map(|(version, other)| (version.as_str(), other.label.as_str())).collect()
    }
}

/// Another version of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherVersion {
    /// Label in lists, or empty.
    pub label: String,
    /// True if a package has the exact version, of which the key is a prefix.
    pub is_packaged: bool,
    /// Name of its lock among the recipe's locks.
    pub lock_name: String,
}

/// A build command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Program and arguments.
    pub run: Vec<String>,
    /// Hosts that it may connect to, or ecosystems such as `@pypi`; sorted.
    pub network: Vec<Grant>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// True if it sees the project's files, read-only at `/workspace`.
    pub project: bool,
    /// The inputs of chance that are the same in each run.
    pub repeats: Repeats,
}

impl Step {
    /// Returns the command as a user would type it.
    pub fn shown(&self) -> String {
        match self.run.as_slice() {
            [sh, flag, script] if sh == SHELL && flag == "-c" => script.clone(),
            words => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        }
    }
}

/// Maximum characters of a step's title.
const TITLE_CHARS: usize = 400;

impl Step {
    /// Returns a title in one line: the command, or the first line of a longer one, which may be a comment.
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

/// Shell for commands that are given as one string.
pub const SHELL: &str = "/bin/sh";

/// Quotes a word for a shell if necessary.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-_./:=@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// A command that makes a request to a package ecosystem; the hosts that it connects to are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Program and arguments.
    pub run: Vec<String>,
}

/// A root file system of Debian packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    /// Codename of the release, such as `trixie`.
    pub suite: String,
    /// Archive areas, sorted.
    pub components: Vec<String>,
    /// Packages in addition to the essential ones, sorted.
    pub packages: Vec<String>,
    /// Packages added by settings, sorted.
    pub added: Vec<String>,
    /// Packages that are present while the steps run but not in the image, sorted.
    pub build: Vec<String>,
    /// True to install recommended packages too.
    pub recommends: bool,
    /// Package whose upstream version is the tool's.
    pub version_of: String,
    /// Additional apt archives, sorted.
    pub sources: Vec<AptSource>,
    /// .deb files in the recipe's directory, sorted.
    pub debs: Vec<LocalDeb>,
    /// Answers to debconf's questions, sorted.
    pub answers: Vec<String>,
}

/// Options of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Program and its first arguments.
    pub command: Vec<String>,
    /// Default arguments, if a run has none.
    pub arguments: Option<Vec<String>>,
    /// Other commands of the tool, by typed name.
    pub shims: BTreeMap<String, Vec<String>>,
    /// Project directories that change the environment.
    pub activate: Vec<Activation>,
    /// Environment variables set inside.
    pub env: BTreeMap<String, String>,
    /// Environment variables of the caller that are passed, if set.
    pub pass_env: Vec<String>,
    /// Package caches that outlive a run.
    pub cache: Vec<KeptDir>,
    /// Private state that outlives a run.
    pub state: Vec<KeptDir>,
    /// Hosts that it may connect to, or ecosystems such as `@pypi`; sorted.
    pub network: Vec<Grant>,
    /// CPU limit.
    pub cpus: Option<u32>,
    /// Memory limit in MiB.
    pub memory_mb: Option<u64>,
    /// Time limit in seconds.
    pub time_seconds: Option<u64>,
    /// Limit in MiB of data over the network.
    pub network_mb: Option<u64>,
    /// Decision about changes of the project, unless the settings decide.
    pub review: Option<Review>,
    /// Command run once in a VM before its snapshot is taken; empty for none.
    pub warm_up: Vec<String>,
}

/// A project directory that changes a tool's environment, such as `.venv`. Not part of the tool's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Directory, relative to a directory of the project.
    pub dir: String,
    /// Path that must exist in it.
    pub has: Option<String>,
    /// Variable that is set to the directory's path.
    pub variable: Option<String>,
    /// Directory in it that is put first on PATH.
    pub path: Option<String>,
    /// Pattern of names in it that carry the version of the tool that made it, such as `lib/python3.*`.
    pub made_by: Option<String>,
}

/// A checked additional apt archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AptSource {
    /// Address, without a trailing slash.
    pub uri: String,
    /// Suite.
    pub suite: String,
    /// Components, sorted.
    pub components: Vec<String>,
    /// Signing key, if it is not one of Debian's.
    pub key: Option<String>,
}

impl AptSource {
    /// Returns a line that identifies the archive; the key is given by its digest.
    pub fn line(&self) -> String {
        let key = self.key.as_ref().map_or_else(|| "debian".to_owned(), |key| Digest::of(key.as_bytes()).to_string());
        format!("{} {} {} key {key}", self.uri, self.suite, self.components.join(" "))
    }
}

/// A .deb file in the recipe's directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalDeb {
    /// Path below the recipe's directory.
    pub name: String,
    /// Recipe's directory.
    pub dir: PathBuf,
}

/// A checked language server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lsp {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Debian packages in addition to the tool's.
    pub packages: Vec<String>,
    /// Commands run in the tool's root, in order.
    pub steps: Vec<Step>,
    /// Caches in addition to the tool's.
    pub cache: Vec<KeptDir>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Probes of the ecosystems that its steps use.
    pub ecosystems: BTreeMap<String, Probe>,
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
            assert_eq!(Step { run, network: Vec::new(), env: BTreeMap::new(), project: false, repeats: Repeats::Nothing }.title(), title);
        }
    }
}
