//! Settings: `silo.toml` of the user and of the project, as written and as they act together.

pub mod detect;
pub mod groups;
pub mod sight;

pub mod discover;

pub mod project;

pub mod edit;
pub mod legacy;
pub mod origin;
pub mod overlay;

pub mod merge;
pub mod read;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::recipe::Run;
use crate::recipe::file::StepEntry;
use crate::recipe::kept::{self, Kept, KeptEntry};
use crate::recipe::lsp::LspTable;
use silo_base::grant::{MACHINE, Port};

use merge::{merge_network, union};
use sight::{Mount, PassFile};

/// A `silo.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The tools that are used here: `python`, or `python@3.13` for a version or its beginning.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Environment variables handed into every tool where set.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Files of yours that every tool may read.
    #[serde(default)]
    pub pass_files: Vec<PassFile>,
    /// Whether every tool may ask the user's ssh agent for signatures.
    #[serde(default)]
    pub pass_ssh_agent: bool,
    /// How the project is shown.
    #[serde(default)]
    pub mount: Mount,
    /// A name that what is kept for the project is found by, wherever its directory is; by default by its directory.
    #[serde(alias = "project_id")]
    pub project_id: Option<String>,
    /// Where Debian packages come from instead of the machine's own apt configuration.
    #[serde(default)]
    pub mirrors: Mirrors,
    /// What every tool may reach.
    #[serde(default)]
    pub network: Network,
    /// Which names a package ecosystem is, by its name: what `@pypi` and its like stand for, instead of what is learned.
    #[serde(default)]
    pub ecosystems: BTreeMap<String, Vec<String>>,
    /// What is different about a tool, by its name.
    #[serde(default)]
    pub overrides: BTreeMap<String, Override>,
    /// Collecting what nothing needs, by itself.
    #[serde(default)]
    pub gc: Gc,
    /// How much package caches may take.
    #[serde(default)]
    pub cache: Cache,
    /// How much a build may take; only in the user's own settings.
    #[serde(default)]
    pub build: Build,
    /// Whether what a project's files open is asked about; only in the user's own settings.
    pub trust: Option<Trust>,
    /// Where tools run; by default natively.
    pub tier: Option<Tier>,
}

/// Where a tool runs. The later one keeps the tool apart from more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// In a sandbox of namespaces, under the host's kernel.
    #[default]
    Native,
    /// In a virtual machine with a kernel of its own.
    Vm,
}

/// Whether what a project's files open is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// It counts once it is approved.
    Ask,
    /// It counts at once, whoever wrote it.
    Always,
}

/// How much is kept of what can be fetched again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cache {
    /// What `gc.maxSize` and `gc.maxAge` say, as older files have it.
    #[serde(default)]
    pub rootfs: Limits,
    /// Package caches of tools.
    #[serde(default)]
    pub tools: ToolCaches,
}

/// How much something may take, and for how long; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    /// At most so many MiB; 0 for no limit.
    #[serde(rename = "maxSizeMB")]
    pub max_size_mb: Option<u64>,
    /// At most so many days unused; 0 for no limit.
    pub max_age_days: Option<u64>,
}

/// How much package caches may take: the files that were used least lately go first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ToolCaches {
    /// All of them together at most so many MiB, 4096 unless this says otherwise; 0 for no limit.
    #[serde(rename = "maxSizeMB")]
    pub max_size_mb: Option<u64>,
    /// Files at most so many days unused, 30 unless this says otherwise; 0 for no limit.
    pub max_age_days: Option<u64>,
    /// One cache at most so many MiB, by `tool/name` (`python/pip`), or each of a tool's, by `tool`.
    #[serde(default)]
    pub per_mount: BTreeMap<String, u64>,
}

/// What may be reached: names as [`Grant`](silo_base::grant::Grant) has them, or ecosystems such as `@pypi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Network {
    /// What may be reached: `name`, `name:port`, `name:from-to`, `*.name`, `*`, or an ecosystem such as `@pypi`.
    #[serde(default)]
    pub allow: Vec<String>,
    /// What may not, unless something allowed names it more closely; without a port, at every port.
    #[serde(default)]
    pub deny: Vec<String>,
    /// What commands given to `silo build` may reach, and those of `postInstall`, unless they say otherwise.
    #[serde(default)]
    pub install_allow: Vec<String>,
    /// Whether what the recipe and less specific settings allow counts no more.
    #[serde(default)]
    pub reset: bool,
    /// The same lists where older files have them.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// What older files grant all of this machine's services with; read as `host.silo.internal`, which is its ports 443
    /// and 80. Others are named: `host.silo.internal:5432`.
    #[serde(default)]
    pub host_access: Option<bool>,
}

/// The lists of a [`Network`] as older files spell them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Proxy {
    /// What may be reached.
    #[serde(default)]
    pub allow: Vec<String>,
    /// What may not.
    #[serde(default)]
    pub deny: Vec<String>,
    /// What commands of a build may reach.
    #[serde(default)]
    pub install_allow: Vec<String>,
}

impl Network {
    /// Reads what older files say in today's words.
    fn today(self) -> Network {
        let proxy = self.proxy.unwrap_or_default();
        let machine = self.host_access.filter(|access| *access).map(|_| MACHINE.to_owned());
        Network {
            allow: union(union(self.allow, proxy.allow), machine.into_iter().collect()),
            deny: union(self.deny, proxy.deny),
            install_allow: union(self.install_allow, proxy.install_allow),
            reset: self.reset,
            proxy: None,
            host_access: None,
        }
    }
}

/// When what nothing needs is collected without being asked for: at most once a day, after an install.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gc {
    /// Whether it is collected by itself at all; it is unless this is false.
    pub auto: Option<bool>,
    /// What all of Silo's directory may take, as far as unneeded things make it up: 20G.
    pub max_size: Option<String>,
    /// How long unneeded things stay unused before they go: 30d.
    pub max_age: Option<String>,
}

/// How much a build may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Build {
    /// What a step of a build may write, 64G unless this says otherwise; one that writes more is ended.
    pub max_step_size: Option<String>,
}

/// Where Debian packages come from; each base is a URL or an absolute path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mirrors {
    /// Bases of the main archive, the first tried first.
    #[serde(default)]
    pub debian: Vec<String>,
    /// Bases of the archive of security updates.
    #[serde(default)]
    pub debian_security: Vec<String>,
    /// Base of the snapshot archive of the main archive, to which a moment is appended.
    pub snapshot: Option<String>,
    /// Base of the snapshot archive of security updates.
    pub snapshot_security: Option<String>,
    /// Whether a lock is made from signed indexes that have expired, or are older than those of the lock before; only in the
    /// user's own settings. Frozen mirrors and snapshots need it.
    pub allow_stale: Option<bool>,
}

/// What is different about one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Override {
    /// The version that is wanted, or its beginning, such as `3.13`.
    pub version: Option<String>,
    /// Debian packages over the recipe's own.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Add-ons over the recipe, such as `kotlin`.
    #[serde(default)]
    pub addons: Vec<String>,
    /// Commands run after the recipe's steps; each one's changes become a layer.
    #[serde(default)]
    pub post_install: Vec<StepEntry>,
    /// Environment variables set inside.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables handed in where set.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Files of yours that the tool may read.
    #[serde(default)]
    pub pass_files: Vec<PassFile>,
    /// Package caches besides the recipe's: directories that outlive a run and may be emptied.
    #[serde(default)]
    pub cache: Vec<KeptEntry>,
    /// Private state besides the recipe's, such as logins: directories that outlive a run.
    #[serde(default)]
    pub state: Vec<KeptEntry>,
    /// What the tool may reach, besides what every tool may.
    #[serde(default)]
    pub network: Network,
    /// Ports of this machine, on 127.0.0.1, that lead to ports inside; `[]` for none of those that are set less specifically.
    pub ports: Option<Vec<Port>>,
    /// Whether the tool may ask the user's ssh agent for signatures.
    #[serde(default)]
    pub pass_ssh_agent: bool,
    /// Directory that a run starts in; by default where the user is.
    pub workdir: Option<String>,
    /// Processors that a run may use at once.
    pub cpus: Option<u32>,
    /// Memory that a run may use, in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: Option<u64>,
    /// What a run may write outside the project and what is kept, in MiB; it is held in memory. 4096 by default.
    #[serde(rename = "rootfsSizeMB")]
    pub rootfs_size_mb: Option<u64>,
    /// An image of a registry; an error, since it stands in a recipe.
    pub image: Option<String>,
    /// The tool's language server, over that of its recipe.
    pub lsp: Option<LspTable>,
}

impl Override {
    /// Says whether a tool is another image with this than without.
    pub fn shapes_image(&self) -> bool {
        self.version.is_some() || !self.packages.is_empty() || !self.addons.is_empty() || !self.post_install.is_empty()
    }
}

impl Settings {
    /// Returns the tools that these settings claim: those listed, and those with an image of their own.
    pub fn claims(&self) -> BTreeSet<String> {
        let shaped = self.overrides.iter().filter(|(_, over)| over.shapes_image()).map(|(tool, _)| tool);
        self.tools.iter().chain(shaped).cloned().collect()
    }

    /// Returns what the commands of a tool's build may reach unless they say otherwise.
    pub fn install_allow(&self, tool: &str) -> Vec<String> {
        let own = self.overrides.get(tool).map(|over| over.network.install_allow.clone()).unwrap_or_default();
        union(self.network.install_allow.clone(), own)
    }

    /// Returns which ports of this machine lead to a tool.
    pub fn ports(&self, tool: &str) -> &[Port] {
        self.overrides.get(tool).and_then(|over| over.ports.as_deref()).unwrap_or_default()
    }

    /// Says whether a tool may ask the user's ssh agent.
    pub fn passes_ssh_agent(&self, tool: &str) -> bool {
        self.pass_ssh_agent || self.overrides.get(tool).is_some_and(|over| over.pass_ssh_agent)
    }

    /// Returns what a tool may reach, of which its recipe grants some.
    pub fn network(&self, tool: &str, recipe: &[String]) -> Network {
        let under = merge_network(Network { allow: recipe.to_vec(), ..Network::default() }, self.network.clone());
        merge_network(under, self.overrides.get(tool).map(|over| over.network.clone()).unwrap_or_default())
    }

    /// Returns the package caches of a tool, its recipe's among them.
    pub fn caches(&self, tool: &str, recipe: Option<&Run>) -> Vec<Kept> {
        self.kept("cache", tool, recipe.map(|run| run.cache.clone()), |over| over.cache.clone())
    }

    /// Returns the private state of a tool, its recipe's among it.
    pub fn states(&self, tool: &str, recipe: Option<&Run>) -> Vec<Kept> {
        self.kept("state", tool, recipe.map(|run| run.state.clone()), |over| over.state.clone())
    }

    fn kept(&self, key: &'static str, tool: &str, under: Option<Vec<Kept>>, of: impl Fn(&Override) -> Vec<KeptEntry>) -> Vec<Kept> {
        // What is wrong was told when the settings were read.
        let own = self.overrides.get(tool).and_then(|over| kept::check(key, of(over)).ok()).unwrap_or_default();
        kept::over(under.unwrap_or_default(), own)
    }

    /// Returns the files of the user's that a tool may read.
    pub fn files(&self, tool: &str) -> impl Iterator<Item = &PassFile> {
        self.pass_files.iter().chain(self.overrides.get(tool).into_iter().flat_map(|over| &over.pass_files))
    }
}

#[cfg(test)]
mod tests {
    use super::merge::merge;
    use super::read::read;
    use super::*;
    use crate::recipe::file;

    #[test]
    fn the_projects_settings_lie_over_the_users() {
        let parse = |text: &str| toml::from_str::<Settings>(text).expect("settings");
        let user = parse(
            "passEnv = [\"A\"]\n[mirrors]\ndebian = [\"/a\"]\nsnapshot = \"/s\"\n[overrides.python]\nmemoryMB = 1\nenv = { X = \"1\", Y = \"1\" }",
        );
        let networks = merge(
            parse("[network]\nallow = [\"a\"]\ndeny = [\"x\"]\n[overrides.t.network]\nallow = [\"b\"]"),
            parse("[network]\nallow = [\"c\"]\nreset = true\n[overrides.u.network]\nreset = true"),
        );
        assert_eq!(networks.network("t", &["r".to_owned()]).allow, ["c", "b"]);
        assert_eq!(networks.network("u", &["r".to_owned()]), Network { deny: vec!["x".to_owned()], reset: true, ..Network::default() });
        let project = parse("passEnv = [\"B\", \"A\"]\n[mirrors]\ndebian = [\"/b\"]\n[overrides.python]\nenv = { Y = \"2\" }");
        let merged = merge(user, project);
        assert_eq!(merged.pass_env, ["A", "B"]);
        assert_eq!(merged.mirrors.debian, ["/b"]);
        assert_eq!(merged.mirrors.snapshot.as_deref(), Some("/s"));
        let python = &merged.overrides["python"];
        assert_eq!((python.memory_mb, python.env["X"].as_str(), python.env["Y"].as_str()), (Some(1), "1", "2"));
    }

    #[test]
    fn what_builds_may_reach_and_older_words_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("silo.toml");
        let text = "[network]\ninstallAllow = [\"@npm\"]\n[overrides.t]\npostInstall = [\"a\", { run = \"b\", network = [\"c\"] }]\n\
            [overrides.t.network]\nhostAccess = true\nproxy = { allow = [\"a.example\"], deny = [\"b.example\"], installAllow = [\"@pypi\"] }";
        std::fs::write(&path, text).expect("written");
        let settings = read(&path).expect("settings");
        assert_eq!(settings.install_allow("t"), ["@npm", "@pypi"]);
        assert_eq!(settings.install_allow("u"), ["@npm"]);
        let network = settings.network("t", &[]);
        assert_eq!((network.allow, network.deny), (vec!["a.example".to_owned(), MACHINE.to_owned()], vec!["b.example".to_owned()]));
        let recipe = file::check("t", file::RecipeFile::default()).expect("a recipe");
        let recipe = overlay::over(recipe, &settings.overrides["t"], &[], &settings.install_allow("t")).expect("an overlay");
        let networks: Vec<&[String]> = recipe.steps.iter().map(|step| step.network.as_slice()).collect();
        assert_eq!(networks, [&["@npm".to_owned(), "@pypi".to_owned()][..], &["c".to_owned()]]);
        for (text, expect) in [
            ("[overrides.t.network.proxy]\nallow = [\"a b\"]", "\"a b\" is not a name"),
            ("[network.proxy]\nallows = []", "allows"),
            ("overrides.t.ports = [{ host = 1, guest = 2 }, { host = 1, guest = 3 }]", "port 1 of this machine leads to two ports"),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = silo_base::causes::of(&read(&path).expect_err(text)).join(": ");
            assert!(error.contains(expect), "{error} lacks {expect}");
        }
    }
}
