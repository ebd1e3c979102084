//! Settings: `silo.toml` of the user and of the project, as written and as they act together.

pub mod edit;
pub mod overlay;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::amount;
use crate::document;
use crate::grant::{MACHINE, Port};
use crate::home::PROJECT_CONFIG;
use crate::recipe::file::{self, StepEntry, check_grants, check_name, check_packages, check_step, check_variables};

/// A `silo.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The tools that are used here.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Environment variables handed into every tool where set.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// Whether every tool may ask the user's ssh agent for signatures.
    #[serde(default)]
    pub pass_ssh_agent: bool,
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
}

/// What may be reached: names as [`Grant`](crate::grant::Grant) has them, or ecosystems such as `@pypi`.
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
}

/// Reads one `silo.toml`; one that is not there says nothing.
pub fn read(path: &Path) -> Result<Settings, document::Error> {
    let mut settings: Settings = document::read(path)?.unwrap_or_default();
    settings.network = settings.network.today();
    for over in settings.overrides.values_mut() {
        over.network = std::mem::take(&mut over.network).today();
    }
    let mirrors = &settings.mirrors;
    let bases = mirrors.debian.iter().chain(&mirrors.debian_security).chain(&mirrors.snapshot).chain(&mirrors.snapshot_security);
    for base in bases {
        if !["http://", "https://", "file://", "/"].iter().any(|start| base.starts_with(start)) {
            let message = format!("mirrors: \"{base}\" is neither an http, https or file URL nor an absolute path");
            return Err(document::Error::Meaning { path: path.to_owned(), message });
        }
    }
    let wrong = |message: String| document::Error::Meaning { path: path.to_owned(), message };
    check_variables("passEnv", settings.pass_env.iter()).map_err(|error| wrong(error.to_string()))?;
    for tool in &settings.tools {
        check_name(tool).map_err(|error| wrong(format!("tools: {error}")))?;
    }
    if let Some(size) = &settings.gc.max_size {
        amount::parse_size(size).map_err(|error| wrong(format!("gc.maxSize: {error}")))?;
    }
    if let Some(age) = &settings.gc.max_age {
        amount::parse_age(age).map_err(|error| wrong(format!("gc.maxAge: {error}")))?;
    }
    check_network(&settings.network).map_err(|error| wrong(error.to_string()))?;
    for (name, grants) in &settings.ecosystems {
        let of = |error: file::Error| wrong(format!("ecosystems.{name}: {error}"));
        check_name(name).map_err(of)?;
        check_grants("names", grants).map_err(of)?;
        if let Some(nested) = grants.iter().find(|grant| grant.starts_with('@')) {
            return Err(wrong(format!("ecosystems.{name}: {nested} cannot stand here; list its names")));
        }
    }
    for (tool, over) in &settings.overrides {
        let of = |error: file::Error| wrong(format!("overrides.{tool}: {error}"));
        check_name(tool).map_err(of)?;
        check_packages("packages", &over.packages).map_err(of)?;
        for addon in &over.addons {
            check_name(addon).map_err(of)?;
        }
        for step in &over.post_install {
            check_step("postInstall", step.clone()).map_err(of)?;
        }
        if over.version.as_ref().is_some_and(|version| !is_version(version)) {
            let version = over.version.as_deref().unwrap_or_default();
            return Err(wrong(format!("overrides.{tool}.version: \"{version}\" is not a version")));
        }
        check_network(&over.network).map_err(of)?;
        check_variables("env", over.env.keys()).map_err(of)?;
        check_variables("passEnv", over.pass_env.iter()).map_err(of)?;
        if over.workdir.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
            return Err(wrong(format!("overrides.{tool}.workdir must be an absolute path")));
        }
        let ports = over.ports.iter().flatten();
        let mut hosts = BTreeSet::new();
        if let Some(twice) = ports.clone().find(|port| !hosts.insert(port.host)) {
            return Err(wrong(format!("overrides.{tool}.ports: port {} of this machine leads to two ports inside", twice.host)));
        }
        if over.cpus == Some(0) || over.memory_mb == Some(0) {
            return Err(wrong(format!("overrides.{tool}: cpus and memoryMB must not be zero")));
        }
    }
    Ok(settings)
}

fn check_network(network: &Network) -> Result<(), file::Error> {
    check_grants("network.allow", &network.allow)?;
    check_grants("network.deny", &network.deny)?;
    check_grants("network.installAllow", &network.install_allow)
}

/// Says whether a text can be a version or the beginning of one.
pub fn is_version(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-~_".contains(c);
    text.len() <= 100 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

/// Lays `over` over `under`: lists are joined, tables merged by key, single values replaced.
pub fn merge(under: Settings, over: Settings) -> Settings {
    let mut overrides = under.overrides;
    for (tool, over) in over.overrides {
        let merged = merge_override(overrides.remove(&tool).unwrap_or_default(), over);
        overrides.insert(tool, merged);
    }
    let mut ecosystems = under.ecosystems;
    for (name, grants) in over.ecosystems {
        let merged = union(ecosystems.remove(&name).unwrap_or_default(), grants);
        ecosystems.insert(name, merged);
    }
    let network = merge_network(under.network, over.network);
    let first = |over: Vec<String>, under: Vec<String>| if over.is_empty() { under } else { over };
    Settings {
        tools: union(under.tools, over.tools),
        pass_env: union(under.pass_env, over.pass_env),
        pass_ssh_agent: under.pass_ssh_agent || over.pass_ssh_agent,
        mirrors: Mirrors {
            debian: first(over.mirrors.debian, under.mirrors.debian),
            debian_security: first(over.mirrors.debian_security, under.mirrors.debian_security),
            snapshot: over.mirrors.snapshot.or(under.mirrors.snapshot),
            snapshot_security: over.mirrors.snapshot_security.or(under.mirrors.snapshot_security),
        },
        network,
        ecosystems,
        overrides,
        gc: Gc {
            auto: over.gc.auto.or(under.gc.auto),
            max_size: over.gc.max_size.or(under.gc.max_size),
            max_age: over.gc.max_age.or(under.gc.max_age),
        },
    }
}

fn merge_override(mut under: Override, over: Override) -> Override {
    under.env.extend(over.env);
    let mut post_install = under.post_install;
    post_install.extend(over.post_install);
    Override {
        version: over.version.or(under.version),
        packages: union(under.packages, over.packages),
        addons: union(under.addons, over.addons),
        post_install,
        env: under.env,
        pass_env: union(under.pass_env, over.pass_env),
        network: merge_network(under.network, over.network),
        ports: over.ports.or(under.ports),
        pass_ssh_agent: under.pass_ssh_agent || over.pass_ssh_agent,
        workdir: over.workdir.or(under.workdir),
        cpus: over.cpus.or(under.cpus),
        memory_mb: over.memory_mb.or(under.memory_mb),
    }
}

/// What is denied stays denied, whoever lays what over it.
fn merge_network(under: Network, over: Network) -> Network {
    Network {
        allow: if over.reset { over.allow } else { union(under.allow, over.allow) },
        deny: union(under.deny, over.deny),
        install_allow: union(under.install_allow, over.install_allow),
        reset: under.reset || over.reset,
        proxy: None,
        host_access: None,
    }
}

fn union(mut under: Vec<String>, over: Vec<String>) -> Vec<String> {
    for item in over {
        if !under.contains(&item) {
            under.push(item);
        }
    }
    under
}

/// Finds the project that `from` lies in: the nearest directory upwards with a `silo.toml`, else the
/// nearest with a `.git`, else `from` itself.
pub fn project_root(from: &Path) -> PathBuf {
    let with = |mark: &str| from.ancestors().find(|dir| dir.join(mark).exists()).map(Path::to_owned);
    with(PROJECT_CONFIG).or_else(|| with(".git")).unwrap_or_else(|| from.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let error = crate::causes::of(&read(&path).expect_err(text)).join(": ");
            assert!(error.contains(expect), "{error} lacks {expect}");
        }
    }
}
