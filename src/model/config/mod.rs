//! Settings: the `silo.toml` of the user and of the project, and their combination.

pub mod detect;
pub mod groups;
pub mod mounts;
mod network;

pub mod discover;

pub mod project;

pub mod edit;
pub mod legacy;
pub mod origin;
pub mod overlay;

pub mod merge;
pub mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::recipe::Run;
use crate::recipe::kept_dirs::{self, KeptDir, KeptEntry};
use crate::recipe::lsp::LspTable;
use crate::recipe::steps::StepEntry;
use silo_base::grant::{Grant, Port};
use silo_base::secret::Source;

use mounts::{Mount, PassFile};
use network::{merge_network, union};

pub use crate::review::Review;
pub use network::{Network, Proxy};

/// A `silo.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Tools used here: `python`, or `python@3.13` for a version or version prefix.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Environment variables passed to every tool, if set.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Files of yours that every tool may read.
    #[serde(default)]
    pub pass_files: Vec<PassFile>,
    /// Whether every tool may use the user's ssh agent.
    #[serde(default)]
    pub pass_ssh_agent: bool,
    /// Secrets that requests to some hosts carry, by variable; only in the user's own settings.
    #[serde(default, deserialize_with = "crate::only_table::each")]
    pub secrets: BTreeMap<String, Secret>,
    /// Mount options of the project.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub mount: Mount,
    /// Id under which project caches and state are stored, independent of the project's directory; by default derived from the directory.
    #[serde(alias = "project_id")]
    pub project_id: Option<String>,
    /// Sources of Debian packages, instead of the machine's own apt configuration.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub mirrors: Mirrors,
    /// Network access of every tool.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub network: Network,
    /// Hosts of package ecosystems, by ecosystem: the meaning of `@pypi` and others, instead of the hosts learned from their clients.
    #[serde(default)]
    pub ecosystems: BTreeMap<String, Vec<Grant>>,
    /// Limits of each run of every tool, in addition to the limits of tools.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub limits: RunLimits,
    /// Settings of single tools, by tool.
    #[serde(default, deserialize_with = "crate::only_table::each")]
    pub overrides: BTreeMap<String, Override>,
    /// Automatic garbage collection.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub gc: Gc,
    /// Size limits of package caches.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub cache: Cache,
    /// Repositories that are asked for an image before it is built.
    #[serde(default, deserialize_with = "crate::only_table::list")]
    pub caches: Vec<CacheSource>,
    /// Engines whose workers run build steps, by name; only in the user's own settings.
    #[serde(default)]
    pub remote: BTreeMap<String, RemotePool>,
    /// Limits of builds; only in the user's own settings.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub build: Build,
    /// Whether permissions in a project's files need an approval; only in the user's own settings.
    pub trust: Option<Trust>,
    /// Decision about changes of the project: `always` and `risky` keep them in a private layer, `never` lets tools change the project
    /// directly. By default the tool's recipe decides, else `never`.
    pub review: Option<Review>,
    /// Tier of tools; by default vm if its image is installed and the processor supports virtual machines, else native.
    pub tier: Option<Tier>,
}

/// A secret by reference: the variable inside has a placeholder, and requests to the hosts carry the value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Secret {
    /// Source of the value: `env:NAME`, `file:/PATH`, `command:COMMAND` or `keyring:SERVICE/ACCOUNT`.
    pub from: Source,
    /// Hosts that get the value, as `name` for https or `name:port`.
    pub hosts: Vec<String>,
}

/// The isolation of a tool. The later value isolates more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// In a sandbox of namespaces, on the host's kernel.
    #[default]
    Native,
    /// In a virtual machine with its own kernel.
    Vm,
}

/// Whether permissions in a project's files need an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Permissions take effect after an approval.
    Ask,
    /// Permissions take effect without an approval.
    Always,
}

/// Limits of each run of every tool. Of several settings, and of the limits of the tool, the smallest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RunLimits {
    /// Memory limit of a run in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: Option<u64>,
    /// Limit of processes and threads of a run; by default 8192.
    pub processes: Option<u64>,
    /// Time limit of a run in seconds.
    pub time_seconds: Option<u64>,
    /// Limit in MiB of the data that a run sends and receives over the network.
    #[serde(rename = "networkMB")]
    pub network_mb: Option<u64>,
}

/// Limits of data that can be fetched again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cache {
    /// Old spelling of `gc.maxSize` and `gc.maxAge`.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub rootfs: Limits,
    /// Package caches of tools.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub tools: ToolCaches,
}

/// Limits of size and age; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Limits {
    /// Maximum size in MiB; 0 for no limit.
    #[serde(rename = "maxSizeMB")]
    pub max_size_mb: Option<u64>,
    /// Maximum days without use; 0 for no limit.
    pub max_age_days: Option<u64>,
}

/// Limits of package caches; the least recently used files are removed first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ToolCaches {
    /// Maximum size of all caches in MiB, by default 4096; 0 for no limit.
    #[serde(rename = "maxSizeMB")]
    pub max_size_mb: Option<u64>,
    /// Maximum days without use of a file, by default 30; 0 for no limit.
    pub max_age_days: Option<u64>,
    /// Maximum size in MiB of one cache, by `tool/name` (`python/pip`), or of each cache of a tool, by `tool`.
    #[serde(default)]
    pub per_mount: BTreeMap<String, u64>,
}

/// Automatic garbage collection, at most daily, after an install; only in the user's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gc {
    /// Whether garbage is collected automatically; by default true.
    pub auto: Option<bool>,
    /// Maximum size of Silo's directory, such as 20G; only unneeded data is removed.
    pub max_size: Option<String>,
    /// Maximum time without use of unneeded data, such as 30d.
    pub max_age: Option<String>,
}

/// A repository that is asked for an image before it is built; an answer counts only with the signature of a key that the user trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CacheSource {
    /// Repository of a registry, absolute path of a directory with an OCI layout, or the http or https address of such a directory.
    pub location: String,
    /// Whether `silo cache push` pushes to it; only in the user's own settings.
    #[serde(default)]
    pub push: bool,
}

/// A percentage, as text such as `5%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(with = "String", extend("pattern" = "^(100|[0-9]{1,2})%$"))]
pub struct Percentage(pub u8);

impl TryFrom<String> for Percentage {
    type Error = String;

    fn try_from(text: String) -> Result<Percentage, String> {
        let number = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|digits| digits.parse().ok()).filter(|number| *number <= 100);
        number.map(Percentage).ok_or_else(|| format!("{text:?} is not a percentage from 0% to 100%"))
    }
}

/// Machines that run build steps: an engine that speaks the Remote Execution API, or machines over ssh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RemotePool {
    /// Address of an engine: `http://HOST:PORT` or `https://HOST:PORT`.
    #[serde(default)]
    pub endpoint: String,
    /// Machines over ssh, in place of an engine: hosts, `USER@HOST`, or names of your ssh configuration.
    #[serde(default)]
    pub ssh: Vec<String>,
    /// Further options of the `ssh` program, such as `-p` and `2222`.
    #[serde(default)]
    pub ssh_options: Vec<String>,
    /// Instance name; empty for most engines.
    #[serde(default)]
    pub instance: String,
    /// The platform of the steps, linux/amd64 or linux/arm64; by default this machine's. Steps of another one run here.
    pub platform: Option<String>,
    /// Properties that a worker must have, by name.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// File with certificates of authorities that the engine's certificate may come from, in addition to the system's.
    pub certificates: Option<PathBuf>,
    /// Headers of each request, by name; the value's source is `env:NAME`, `file:/PATH`, `command:COMMAND` or `keyring:SERVICE/ACCOUNT`.
    #[serde(default)]
    pub headers: BTreeMap<String, Source>,
    /// Number of steps at the same time: with an engine by default 16, on each machine over ssh by default the number of its processors.
    pub jobs: Option<usize>,
    /// Silo program of the workers. With an engine, a file here, by default this program; it must run there without libraries of this
    /// machine. Over ssh, a command there, by default `silo`.
    pub program: Option<PathBuf>,
    /// Seconds that a step may run, by default one hour. Engines have a limit of their own for it.
    pub time_seconds: Option<u64>,
    /// Seconds that a step may wait for a worker, by default ten minutes; then it runs here.
    pub queue_seconds: Option<u64>,
    /// Share of the steps that run here too, as a percentage such as `5%`: a worker with another result is an error. By default 0%.
    #[serde(default)]
    pub check: Percentage,
    /// Whether builds use the engine without `--remote`.
    #[serde(default)]
    pub always: bool,
}

/// Limits of builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Build {
    /// Maximum output of a build step, by default 64G; a step that writes more is killed.
    pub max_step_size: Option<String>,
}

/// Sources of Debian packages; each base is a URL or an absolute path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mirrors {
    /// Base URLs of the main archive, in order of preference.
    #[serde(default)]
    pub debian: Vec<String>,
    /// Base URLs of the security archive.
    #[serde(default)]
    pub debian_security: Vec<String>,
    /// Base URL of the snapshot archive of the main archive; a timestamp is appended.
    pub snapshot: Option<String>,
    /// Base URL of the snapshot archive of security updates.
    pub snapshot_security: Option<String>,
    /// Whether a lock may use signed indexes that have expired, or are older than those of the previous lock; only in the user's own
    /// settings. Frozen mirrors and snapshots need it.
    pub allow_stale: Option<bool>,
}

/// Settings of one tool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Override {
    /// Requested version, or a prefix such as `3.13`.
    pub version: Option<String>,
    /// Debian packages in addition to the recipe's.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Add-ons, such as `kotlin`.
    #[serde(default)]
    pub addons: Vec<String>,
    /// Commands run after the recipe's steps; the changes of each become a layer.
    #[serde(default)]
    pub post_install: Vec<StepEntry>,
    /// Environment variables set inside.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables passed to the tool, if set.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Files of yours that the tool may read.
    #[serde(default)]
    pub pass_files: Vec<PassFile>,
    /// Package caches in addition to the recipe's: directories that outlive a run and may be emptied.
    #[serde(default)]
    pub cache: Vec<KeptEntry>,
    /// Private state in addition to the recipe's, such as logins: directories that outlive a run.
    #[serde(default)]
    pub state: Vec<KeptEntry>,
    /// Network access in addition to that of every tool.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub network: Network,
    /// Port forwards from this machine, on 127.0.0.1, to ports inside; `[]` removes those of outer settings.
    pub ports: Option<Vec<Port>>,
    /// Whether the tool may use the user's ssh agent.
    #[serde(default)]
    pub pass_ssh_agent: bool,
    /// Secrets of the tool, in addition to those of every tool; only in the user's own settings.
    #[serde(default, deserialize_with = "crate::only_table::each")]
    pub secrets: BTreeMap<String, Secret>,
    /// Working directory of a run; by default the user's.
    pub workdir: Option<String>,
    /// CPU limit of a run; of several settings the smallest counts.
    pub cpus: Option<u32>,
    /// Memory limit of a run in MiB; of several settings the smallest counts.
    #[serde(rename = "memoryMB")]
    pub memory_mb: Option<u64>,
    /// Time limit of a run in seconds; of several settings the smallest counts.
    pub time_seconds: Option<u64>,
    /// Limit in MiB of the data that a run sends and receives over the network; of several settings the smallest counts.
    #[serde(rename = "networkMB")]
    pub network_mb: Option<u64>,
    /// Limit in MiB of writes outside the project and persistent directories; held in memory. By default 4096; of several settings the
    /// smallest counts.
    #[serde(rename = "rootfsSizeMB")]
    pub rootfs_size_mb: Option<u64>,
    /// Decision about changes of the project by this tool, instead of `review`.
    pub review: Option<Review>,
    /// A container image; an error, because images belong in recipes.
    pub image: Option<String>,
    /// Language server of the tool, merged over that of its recipe.
    #[serde(default, deserialize_with = "crate::only_table::optional")]
    pub lsp: Option<LspTable>,
}

impl Override {
    /// True if these settings change the tool's image.
    pub fn shapes_image(&self) -> bool {
        self.version.is_some() || self.adds_to_image()
    }

    /// True if these settings add something to the image of the recipe.
    pub fn adds_to_image(&self) -> bool {
        !self.packages.is_empty() || !self.addons.is_empty() || !self.post_install.is_empty()
    }
}

impl Settings {
    /// Returns the tools that these settings use: the listed ones, and those with an image of their own.
    pub fn claims(&self) -> BTreeSet<String> {
        let shaped = self.overrides.iter().filter(|(_, over)| over.shapes_image()).map(|(tool, _)| tool);
        self.tools.iter().chain(shaped).cloned().collect()
    }

    /// Returns the hosts that build commands of a tool may connect to by default.
    pub fn install_allow(&self, tool: &str) -> Vec<Grant> {
        let own = self.overrides.get(tool).map(|over| over.network.install_allow.clone()).unwrap_or_default();
        union(self.network.install_allow.clone(), own)
    }

    /// Returns the port forwards of a tool.
    pub fn ports(&self, tool: &str) -> &[Port] {
        self.overrides.get(tool).and_then(|over| over.ports.as_deref()).unwrap_or_default()
    }

    /// Returns the decision about changes of the project by a tool; `recipe` is that of its recipe.
    pub fn review(&self, tool: &str, recipe: Option<Review>) -> Review {
        let own = self.overrides.get(tool).and_then(|over| over.review).or(self.review);
        let is_layered = self.mount.mode == Some(mounts::Mode::Review);
        match own {
            Some(own) => own,
            None if is_layered => recipe.filter(|recipe| *recipe > Review::Never).unwrap_or(Review::Always),
            None => recipe.unwrap_or(Review::Never),
        }
    }

    /// True if a tool may use the user's ssh agent.
    pub fn passes_ssh_agent(&self, tool: &str) -> bool {
        self.pass_ssh_agent || self.overrides.get(tool).is_some_and(|over| over.pass_ssh_agent)
    }

    /// Returns the secrets of a tool, by variable.
    pub fn secrets(&self, tool: &str) -> BTreeMap<&str, &Secret> {
        let own = self.overrides.get(tool).into_iter().flat_map(|over| &over.secrets);
        self.secrets.iter().chain(own).map(|(name, secret)| (name.as_str(), secret)).collect()
    }

    /// Returns the network access of a tool, including its recipe's grants.
    pub fn network(&self, tool: &str, recipe: &[Grant]) -> Network {
        let under = merge_network(Network { allow: recipe.to_vec(), ..Network::default() }, self.network.clone());
        merge_network(under, self.overrides.get(tool).map(|over| over.network.clone()).unwrap_or_default())
    }

    /// Returns the package caches of a tool, including its recipe's.
    pub fn caches(&self, tool: &str, recipe: Option<&Run>) -> Vec<KeptDir> {
        self.kept("cache", tool, recipe.map(|run| run.cache.clone()), |over| over.cache.clone())
    }

    /// Returns the private state of a tool, including its recipe's.
    pub fn states(&self, tool: &str, recipe: Option<&Run>) -> Vec<KeptDir> {
        self.kept("state", tool, recipe.map(|run| run.state.clone()), |over| over.state.clone())
    }

    fn kept(&self, key: &'static str, tool: &str, under: Option<Vec<KeptDir>>, of: impl Fn(&Override) -> Vec<KeptEntry>) -> Vec<KeptDir> {
        // Errors were reported when the settings were read.
        let own = self.overrides.get(tool).and_then(|over| kept_dirs::check(key, of(over)).ok()).unwrap_or_default();
        kept_dirs::over(under.unwrap_or_default(), own)
    }

    /// Returns the user's files that a tool may read.
    pub fn files(&self, tool: &str) -> impl Iterator<Item = &PassFile> {
        self.pass_files.iter().chain(self.overrides.get(tool).into_iter().flat_map(|over| &over.pass_files))
    }
}

#[cfg(test)]
mod tests {
    use silo_base::grant::MACHINE;

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
        let grants = |texts: &[&str]| texts.iter().map(|text| Grant::parse(text).expect("a grant")).collect::<Vec<_>>();
        assert_eq!(networks.network("t", &grants(&["r"])).allow, grants(&["c", "b"]));
        assert_eq!(networks.network("u", &grants(&["r"])), Network { deny: grants(&["x"]), reset: true, ..Network::default() });
        let project = parse("passEnv = [\"B\", \"A\"]\n[mirrors]\ndebian = [\"/b\"]\n[overrides.python]\nenv = { Y = \"2\" }");
        let merged = merge(user, project);
        assert_eq!(merged.pass_env, ["A", "B"]);
        assert_eq!(merged.mirrors.debian, ["/b"]);
        assert_eq!(merged.mirrors.snapshot.as_deref(), Some("/s"));
        let python = &merged.overrides["python"];
        assert_eq!((python.memory_mb, python.env["X"].as_str(), python.env["Y"].as_str()), (Some(1), "1", "2"));
    }

    #[test]
    fn a_limit_is_never_raised_by_more_specific_settings() {
        let limits = |user: &str, project: &str| {
            let parse = |text: &str| toml::from_str::<Settings>(&format!("[overrides.t]\n{text}")).expect("settings");
            let over = merge(parse(user), parse(project)).overrides.remove("t").expect("merged");
            let cpus = over.cpus.map(u64::from);
            [over.time_seconds, over.network_mb, over.memory_mb, over.rootfs_size_mb, cpus]
        };
        for (at, name) in ["timeSeconds", "networkMB", "memoryMB", "rootfsSizeMB", "cpus"].into_iter().enumerate() {
            for (user, project, expect) in [(Some(5), Some(60), 5), (Some(60), Some(5), 5), (None, Some(60), 60), (Some(5), None, 5)] {
                let text = |limit: Option<u64>| limit.map(|limit| format!("{name} = {limit}")).unwrap_or_default();
                assert_eq!(limits(&text(user), &text(project))[at], Some(expect), "{name}");
            }
        }
    }

    #[test]
    fn the_most_specific_review_decides() {
        let parse = |text: &str| toml::from_str::<Settings>(text).expect("settings");
        for (text, recipe, expect) in [
            ("", None, Review::Never),
            ("", Some(Review::Risky), Review::Risky),
            ("review = \"always\"", Some(Review::Risky), Review::Always),
            ("review = \"always\"\noverrides.t.review = \"never\"", Some(Review::Risky), Review::Never),
            ("review = \"never\"\noverrides.u.review = \"always\"", Some(Review::Risky), Review::Never),
            ("mount.mode = \"review\"", None, Review::Always),
            ("mount.mode = \"review\"", Some(Review::Risky), Review::Risky),
            ("mount.mode = \"review\"", Some(Review::Never), Review::Always),
            ("mount.mode = \"review\"\nreview = \"never\"", None, Review::Never),
        ] {
            assert_eq!(parse(text).review("t", recipe), expect, "{text}");
        }
        let merged = merge(parse("review = \"always\"\noverrides.t.review = \"always\""), parse("overrides.t.review = \"risky\""));
        assert_eq!((merged.review("t", None), merged.review("u", None)), (Review::Always, Review::Always));
        for (user, project, expect) in [
            ("", "tier = \"native\"", None),
            ("", "tier = \"vm\"", Some(Tier::Vm)),
            ("tier = \"vm\"", "tier = \"native\"", Some(Tier::Vm)),
            ("tier = \"native\"", "tier = \"vm\"", Some(Tier::Vm)),
            ("tier = \"native\"", "", Some(Tier::Native)),
        ] {
            assert_eq!(merge(parse(user), parse(project)).tier, expect, "{user} {project}");
        }
    }

    #[test]
    fn an_array_is_no_table() {
        for text in [
            "network = [[\"a.example\"]]",
            "network = [\"a.example\"]",
            "overrides.t = [\"3.13\"]",
            "overrides.t.network = [[\"a.example\"]]",
            "limits = [100]",
            "secrets.T = [\"env:T\", [\"a.example\"]]",
            "secrets.T = \"x\"",
            "caches = [[\"/srv/cache\"]]",
        ] {
            let error = super::read::parse(text, std::path::Path::new("silo.toml")).expect_err(text).to_string();
            assert!(error.contains("silo.toml:1:") && error.contains("expected a table"), "{text}: {error}");
        }
        let error = super::read::parse("tools = \"python\"", std::path::Path::new("silo.toml")).expect_err("a text").to_string();
        assert!(error.contains("expected a list, as in"), "{error}");
    }

    #[test]
    fn what_builds_may_reach_and_older_words_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("silo.toml");
        let text = "[network]\ninstallAllow = [\"@npm\"]\n[overrides.t]\npostInstall = [\"a\", { run = \"b\", network = [\"c\"] }]\n\
            [overrides.t.network]\nhostAccess = true\nproxy = { allow = [\"a.example\"], deny = [\"b.example\"], installAllow = [\"@pypi\"] }";
        std::fs::write(&path, text).expect("written");
        let settings = read(&path).expect("settings");
        let grants = |texts: &[&str]| texts.iter().map(|text| Grant::parse(text).expect("a grant")).collect::<Vec<_>>();
        assert_eq!(settings.install_allow("t"), grants(&["@npm", "@pypi"]));
        assert_eq!(settings.install_allow("u"), grants(&["@npm"]));
        let network = settings.network("t", &[]);
        assert_eq!((network.allow, network.deny), (grants(&["a.example", MACHINE]), grants(&["b.example"])));
        let recipe = file::check("t", file::RecipeFile::default()).expect("a recipe");
        let recipe = overlay::over(recipe, &settings.overrides["t"], &[], &settings.install_allow("t")).expect("an overlay");
        let networks: Vec<&[Grant]> = recipe.steps.iter().map(|step| step.network.as_slice()).collect();
        assert_eq!(networks, [&grants(&["@npm", "@pypi"])[..], &grants(&["c"])]);
        for (text, expect) in [
            ("[overrides.t.network.proxy]\nallow = [\"a b\"]", "\"a b\" is not a name"),
            ("[network.proxy]\nallows = []", "allows"),
            ("overrides.t.ports = [{ host = 1, guest = 2 }, { host = 1, guest = 3 }]", "port 1 of this machine is forwarded to two ports"),
        ] {
            std::fs::write(&path, text).expect("written");
            let error = silo_base::error_chain::of(&read(&path).expect_err(text)).join(": ");
            assert!(error.contains(expect), "{error} lacks {expect}");
        }
    }
}
