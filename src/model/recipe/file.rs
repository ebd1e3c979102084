//! A recipe file: every key is optional, unknown keys are refused.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::oci::reference;
use crate::review::Review;

use super::check::{check_grants, check_name, check_shim, check_variables, sorted};
use super::debian::{self, DebianTable};
use super::error::Error;
use super::kept_dirs::{self, KeptEntry};
use super::lsp::{self, LspTable};
use super::steps::{EcosystemTable, StepEntry, check_ecosystems};
use super::types::{Activation, Recipe, Run};
use super::versions::{self, VersionTable};

/// A recipe file (`recipes/<tool>.toml`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RecipeFile {
    /// Description in one line, for `silo list --available`.
    pub description: Option<String>,
    /// Date and architecture of the last test with a real program: `2026-11-28 on x86_64`.
    pub tested: Option<String>,
    /// Version of the tool, if none of its packages has it; steps read it from `$SILO_VERSION`.
    pub version: Option<String>,
    /// Other available versions, and their differences.
    #[serde(default, deserialize_with = "crate::only_table::each")]
    pub versions: BTreeMap<String, VersionTable>,
    /// Tools that this one is built on: their packages, steps, variables and grants come first.
    pub requires: Option<Vec<String>>,
    /// Container image used as root file system instead of Debian packages: `registry.example.com/name:tag`, `oci:/layout:name`,
    /// `oci-archive:/file.tar:name` or `docker-archive:/file.tar:name`.
    pub image: Option<String>,
    /// Debian packages of the root file system.
    #[serde(default, deserialize_with = "crate::only_table::optional")]
    pub debian: Option<DebianTable>,
    /// Build commands, run in the root file system in order; the changes of each become a layer.
    pub steps: Option<Vec<StepEntry>>,
    /// Network access of the tool.
    #[serde(default, deserialize_with = "crate::only_table::one")]
    pub network: NetworkTable,
    /// Probes that learn the hosts of package ecosystems, by ecosystem; in a project's files without effect.
    #[serde(default, deserialize_with = "crate::only_table::each")]
    pub ecosystems: BTreeMap<String, EcosystemTable>,
    /// Program and its first arguments; by default the tool's name.
    pub command: Option<Vec<String>>,
    /// Default arguments of the command, if a run has none, like CMD with ENTRYPOINT in a Dockerfile.
    pub arguments: Option<Vec<String>>,
    /// Other commands of the tool: `name`, or `name:program and arguments`.
    pub shims: Option<Vec<String>>,
    /// Project directories that change the tool's environment if they exist, such as `.venv`.
    #[serde(default, deserialize_with = "crate::only_table::optional_list")]
    pub activate: Option<Vec<ActivateTable>>,
    /// Environment variables set inside.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables of the caller that are passed, if set.
    pub pass_env: Option<Vec<String>>,
    /// Package caches: directories that outlive a run and may be emptied.
    pub cache: Option<Vec<KeptEntry>>,
    /// Private state, such as logins: directories that outlive a run and that Silo never empties.
    pub state: Option<Vec<KeptEntry>>,
    /// CPU limit of a run.
    pub cpus: Option<u32>,
    /// Memory limit of a run in MiB.
    #[serde(rename = "memoryMB")]
    pub memory_mb: Option<u64>,
    /// Time limit of a run in seconds.
    pub time_seconds: Option<u64>,
    /// Limit in MiB of the data that a run sends and receives over the network.
    #[serde(rename = "networkMB")]
    pub network_mb: Option<u64>,
    /// Decision about changes of the project, unless the settings decide: `never` (default), `risky` or `always`.
    pub review: Option<Review>,
    /// Command run once in a virtual machine before its snapshot is taken, so that the tool's files are in memory.
    pub warm_up: Option<Vec<String>>,
    /// Language server of the tool, for `silo lsp`; not part of the tool's image.
    #[serde(default, deserialize_with = "crate::only_table::optional")]
    pub lsp: Option<LspTable>,
    /// Name of the lock of the selected version; `None` for the recipe's own one.
    #[serde(skip)]
    #[schemars(skip)]
    pub lock_name: Option<String>,
}

/// A directory that changes the tool's environment. The search goes from the working directory up to the project.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ActivateTable {
    /// Directory, such as `.venv`.
    pub dir: String,
    /// Path that must exist in it, such as `bin/python`.
    pub has: Option<String>,
    /// Variable that is set to the directory's path.
    pub variable: Option<String>,
    /// Directory in it that is put first on PATH.
    pub path: Option<String>,
    /// Pattern of names in it that carry the version of the tool that made it, such as `lib/python3.*`. The directory is used only if the
    /// image has one of these names below `/usr` or `/usr/local`.
    pub made_by: Option<String>,
}

/// Network access of a tool's commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetworkTable {
    /// Allowed hosts of a run: names, or ecosystems such as `@pypi`.
    pub allow: Option<Vec<String>>,
    /// Allowed hosts for commands of `silo build` without a list of their own.
    pub install_allow: Option<Vec<String>>,
}

/// Merges `over` into `under`, key by key: tables merge, everything else is replaced.
pub fn merge(under: RecipeFile, over: RecipeFile) -> RecipeFile {
    let mut env = under.env;
    env.extend(over.env);
    let debian = debian::merge(under.debian, over.debian);
    let mut ecosystems = under.ecosystems;
    ecosystems.extend(over.ecosystems);
    let mut versions = under.versions;
    versions.extend(over.versions);
    RecipeFile {
        description: over.description.or(under.description),
        tested: over.tested.or(under.tested),
        version: over.version.or(under.version),
        versions,
        requires: over.requires.or(under.requires),
        image: over.image.or(under.image),
        debian,
        steps: over.steps.or(under.steps),
        network: NetworkTable {
            allow: over.network.allow.or(under.network.allow),
            install_allow: over.network.install_allow.or(under.network.install_allow),
        },
        ecosystems,
        command: over.command.or(under.command),
        arguments: over.arguments.or(under.arguments),
        shims: over.shims.or(under.shims),
        activate: over.activate.or(under.activate),
        env,
        pass_env: over.pass_env.or(under.pass_env),
        cache: over.cache.or(under.cache),
        state: over.state.or(under.state),
        cpus: over.cpus.or(under.cpus),
        memory_mb: over.memory_mb.or(under.memory_mb),
        time_seconds: over.time_seconds.or(under.time_seconds),
        network_mb: over.network_mb.or(under.network_mb),
        review: over.review.or(under.review),
        warm_up: over.warm_up.or(under.warm_up),
        lsp: lsp::merge(under.lsp, over.lsp),
        lock_name: None,
    }
}

/// Selects the newest version that matches the requested one or has it as prefix. If the recipe's own version matches, or none does, the
/// recipe stays unchanged.
pub fn choose(tool: &str, mut file: RecipeFile, wanted: &str) -> RecipeFile {
    if file.version.as_deref().is_some_and(|own| versions::is_of(own, wanted)) {
        return file;
    }
    let fits = |(version, table): &(&String, &versions::VersionTable)| {
        versions::is_of(version, wanted) || (table.is_packaged() && versions::is_of(wanted, version))
    };
    let Some((version, table)) = file.versions.iter().filter(fits).max_by_key(|(version, _)| versions::order(version)) else { return file };
    let (version, table) = (version.clone(), table.clone());
    file.version = (!table.is_packaged()).then_some(version);
    if table.has_own_root() {
        file.lock_name = Some(versions::lock_name(tool, &file.versions, &table));
        file.debian = if table.image.is_some() { table.debian } else { debian::merge(file.debian, table.debian) };
        file.image = table.image;
    }
    file.steps = table.steps.or(file.steps);
    file.env.extend(table.env);
    file
}

/// Checks `file` and fills in defaults.
pub fn check(name: &str, file: RecipeFile) -> Result<Recipe, Error> {
    check_name(name)?;
    let tag = check_image(&file)?;
    let has_steps = file.versions.values().map(|version| &version.steps).chain([&file.steps]).flatten().any(|steps| !steps.is_empty());
    let debian = file.debian.unwrap_or_default();
    let has_build_packages = debian.build_packages.as_ref().is_some_and(|packages| !packages.is_empty());
    let debian = debian::check(debian)?;
    if has_build_packages && !has_steps {
        return Err(Error::NoSteps);
    }
    let mut shims = BTreeMap::new();
    let mut first_shim = None;
    for shim in file.shims.unwrap_or_default() {
        let (host, command) = check_shim(&shim)?;
        first_shim.get_or_insert_with(|| host.clone());
        shims.insert(host, command);
    }
    let arguments = file.arguments;
    let command = file.command.unwrap_or_else(|| own_command(name, first_shim, &shims));
    let activate = file.activate.unwrap_or_default().into_iter().map(check_activate).collect::<Result<_, _>>()?;
    let is_empty = |words: &Vec<String>| words.first().is_none_or(String::is_empty);
    let warm_up = file.warm_up.as_ref().is_some_and(is_empty);
    let empty = [
        ("command", is_empty(&command)),
        ("cpus", file.cpus == Some(0)),
        ("memoryMB", file.memory_mb == Some(0)),
        ("timeSeconds", file.time_seconds == Some(0)),
        ("networkMB", file.network_mb == Some(0)),
        ("warmUp", warm_up),
    ];
    if let Some((key, _)) = empty.into_iter().find(|(_, is_empty)| *is_empty) {
        return Err(Error::Empty(key));
    }
    let pass_env = file.pass_env.unwrap_or_default();
    check_variables("env", file.env.keys())?;
    check_variables("passEnv", pass_env.iter())?;
    let steps = versions::check_steps(file.steps.unwrap_or_default(), file.version.as_deref())?;
    versions::check(&file.version, &file.versions)?;
    let requires = file.requires.unwrap_or_default();
    requires.iter().try_for_each(|tool| check_name(tool))?;
    let allow = check_grants("network.allow", &file.network.allow.unwrap_or_default())?;
    let install_allow = check_grants("network.installAllow", &file.network.install_allow.unwrap_or_default())?;
    let ecosystems = check_ecosystems(file.ecosystems)?;
    let cache = kept_dirs::check("cache", file.cache.unwrap_or_default())?;
    let state = kept_dirs::check("state", file.state.unwrap_or_default())?;
    let (cpus, memory_mb, warm_up) = (file.cpus, file.memory_mb, file.warm_up.unwrap_or_default());
    let lsp = file.lsp.map(lsp::check).transpose()?.filter(|lsp| !lsp.command.is_empty());
    Ok(Recipe {
        name: name.to_owned(),
        description: file.description.unwrap_or_default(),
        tested: file.tested,
        version: file.version.or(tag),
        image: file.image,
        versions: versions::described(name, file.versions),
        lock_name: file.lock_name.unwrap_or_else(|| name.to_owned()),
        requires,
        debian,
        steps,
        install_allow: sorted(install_allow),
        ecosystems,
        run: Run {
            command,
            arguments,
            shims,
            activate,
            env: file.env,
            pass_env,
            cache,
            state,
            network: sorted(allow),
            cpus,
            memory_mb,
            time_seconds: file.time_seconds,
            network_mb: file.network_mb,
            review: file.review,
            warm_up,
        },
        lsp,
    })
}

/// Checks the image reference, if there is one; returns its tag, which serves as a version.
fn check_image(file: &RecipeFile) -> Result<Option<String>, Error> {
    let Some(image) = &file.image else { return Ok(None) };
    let parsed = reference::parse(image).map_err(|what| Error::Image { image: image.clone(), what })?;
    if file.debian.is_some() {
        return Err(Error::Both("[debian]"));
    }
    if file.requires.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return Err(Error::Both("requires"));
    }
    Ok(Some(parsed.version()))
}

fn check_activate(table: ActivateTable) -> Result<Activation, Error> {
    check_variables("activate.variable", table.variable.iter())?;
    Ok(Activation {
        dir: below("activate.dir", table.dir)?,
        has: table.has.map(|has| below("activate.has", has)).transpose()?,
        variable: table.variable,
        path: table.path.map(|path| below("activate.path", path)).transpose()?,
        made_by: table.made_by.map(check_made_by).transpose()?,
    })
}

/// Checks a pattern of names: a path with one `*` at its end.
fn check_made_by(pattern: String) -> Result<String, Error> {
    match pattern.strip_suffix('*') {
        Some(start) if !start.is_empty() && !start.ends_with('/') && !start.contains('*') => {
            below("activate.madeBy", start.to_owned())?;
            Ok(pattern)
        }
        _ => Err(Error::Pattern(pattern)),
    }
}

/// The default command: the shim with the tool's name, else the first shim, else a program of that name.
fn own_command(name: &str, first_shim: Option<String>, shims: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let own = shims.get(name).or_else(|| shims.get(&first_shim?));
    own.cloned().unwrap_or_else(|| vec![name.to_owned()])
}

/// Checks that a path stays within the directory that it is joined to.
fn below(key: &'static str, value: String) -> Result<String, Error> {
    let plain = std::path::Path::new(&value).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    // A colon would separate entries of PATH.
    if plain && !value.is_empty() && !value.contains(['\0', ':']) { Ok(value) } else { Err(Error::Below { key, value }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> RecipeFile {
        toml::from_str(text).expect("the text is a recipe")
    }

    #[test]
    fn wrong_recipes_name_the_mistake() {
        for (name, text, expect) in [
            ("Python", "", "\"Python\" is not a tool name: use lower-case letters, digits and \"-\", beginning with a letter"),
            ("a/b", "", "\"a/b\" is not a tool name: use lower-case letters, digits and \"-\", beginning with a letter"),
            (
                "x",
                "[debian]\npackages = [\"a b\"]",
                "debian.packages: \"a b\" is not a package name; write name, name=version, name (>= version), name/suite or name:i386, with \" [amd64]\" after it for one architecture only",
            ),
            (
                "x",
                "[debian]\npackages = [\"a [vax]\"]",
                "debian.packages: \"a [vax]\" is not a package name; write name, name=version, name (>= version), name/suite or name:i386, with \" [amd64]\" after it for one architecture only",
            ),
            (
                "x",
                "[debian]\npackages = [\"-o\"]",
                "debian.packages: \"-o\" is not a package name; write name, name=version, name (>= version), name/suite or name:i386, with \" [amd64]\" after it for one architecture only",
            ),
            ("x", "[debian]\nsuite = \"../x\"", "debian.suite: \"../x\" is not a plain word"),
            (
                "x",
                "[debian]\nbuildPackages = [\"gcc\"]",
                "debian.buildPackages are for steps, but the recipe has none; add steps, or use debian.packages",
            ),
            (
                "x",
                "steps = [\"a\"]\n[debian]\nbuildPackages = [\"a b\"]",
                "debian.buildPackages: \"a b\" is not a package name; write name, name=version, name (>= version), name/suite or name:i386, with \" [amd64]\" after it for one architecture only",
            ),
            ("x", "shims = [\":y\"]", "shims: \":y\" is not a shim; write name, or name:program and arguments"),
            ("x", "command = []", "command must not be empty or zero"),
            ("x", "memoryMB = 0", "memoryMB must not be empty or zero"),
            ("x", "timeSeconds = 0", "timeSeconds must not be empty or zero"),
            ("x", "networkMB = 0", "networkMB must not be empty or zero"),
            ("x", "steps = [\"\"]", "steps must not be empty or zero"),
            (
                "x",
                "[[steps]]\nrun = \"true\"\nnetwork = [\"http://x\"]",
                "steps: \"http://x\" is not a name; write name, name:port, *.name, an address, a network like 192.0.2.0/24, or @ecosystem",
            ),
            (
                "x",
                "[[activate]]\ndir = \"x\"\nmadeBy = \"lib/*/x\"",
                "activate.madeBy: \"lib/*/x\" is not a path with one * at its end; write it as lib/python3.*",
            ),
            (
                "x",
                "[[activate]]\ndir = \"../x\"",
                "activate.dir: \"../x\" is not a relative path within its directory; write it without a leading / and without ..",
            ),
            ("x", "passEnv = [\"A=B\"]", "passEnv: \"A=B\" is not a variable name"),
            ("x", "version = \"a b\"", "version: \"a b\" is not a version"),
            ("x", "[versions.\"../1\"]\n", "versions: \"../1\" is not a version"),
            ("x", "[versions.1]\nsteps = [\"\"]", "versions.steps must not be empty or zero"),
            ("x", "requires = [\"A\"]", "\"A\" is not a tool name: use lower-case letters, digits and \"-\", beginning with a letter"),
        ] {
            let error = check(name, parsed(text)).expect_err(text);
            assert_eq!(error.to_string(), expect);
        }
    }

    #[test]
    fn a_tool_without_a_command_runs_its_own_or_first_shim() {
        for (text, expect) in
            [("", "x"), ("shims = [\"b\", \"a\"]", "b"), ("shims = [\"b\", \"x:y\"]", "y"), ("shims = [\"b\"]\ncommand = [\"c\"]", "c")]
        {
            assert_eq!(check("x", parsed(text)).expect(text).run.command, [expect], "{text}");
        }
    }

    #[test]
    fn later_recipes_lie_over_earlier_ones_key_by_key() {
        let under = parsed("description = \"a\"\nenv = { A = \"1\", B = \"1\" }\n[debian]\npackages = [\"python3\"]");
        let over = parsed("env = { B = \"2\" }\nmemoryMB = 64\n[debian]\nrecommends = true");
        let recipe = check("x", merge(under, over)).expect("both are right");
        assert_eq!(recipe.description, "a");
        assert_eq!(recipe.debian.packages, ["python3"]);
        assert!(recipe.debian.recommends);
        assert_eq!(recipe.run.env.into_iter().collect::<Vec<_>>(), [("A".into(), "1".into()), ("B".into(), "2".into())]);
        assert_eq!(recipe.run.memory_mb, Some(64));
    }

    #[test]
    fn the_newest_version_that_begins_so_is_taken() {
        let text = "version = \"3.1.0\"\nsteps = [\"a\"]\nenv = { A = \"1\" }\n[versions.\"2.10.0\"]\nenv = { A = \"2\" }\n[versions.\"2.9.1\"]\nsteps = [\"b\"]\n";
        let file: RecipeFile = toml::from_str(text).expect("a recipe");
        let step = |text: &str| Some(vec![StepEntry::Shell(text.to_owned())]);
        for (wanted, version, steps, variable) in
            [("2", "2.10.0", "a", "2"), ("2.9", "2.9.1", "b", "1"), ("3", "3.1.0", "a", "1"), ("4", "3.1.0", "a", "1")]
        {
            let chosen = choose("x", file.clone(), wanted);
            assert_eq!(chosen.version.as_deref(), Some(version), "{wanted}");
            assert_eq!((chosen.steps, chosen.env["A"].as_str()), (step(steps), variable), "{wanted}");
        }
    }
}
