//! The language server of a tool: its command, and its additions to the tool's root.

use std::collections::BTreeMap;

use silo_base::grant::Grant;

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::{check_packages, check_variables};
use super::error::Error;
use super::kept_dirs::{self, KeptEntry};
use super::steps::{EcosystemTable, StepEntry, check_ecosystems, check_step};
use super::types::Lsp;

/// A language server, as written in a recipe or in settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LspTable {
    /// Command of the language server and its arguments; it must use standard input and output.
    pub command: Option<Vec<String>>,
    /// Debian packages of the language server, in addition to the tool's.
    pub packages: Option<Vec<String>>,
    /// Commands that install the language server, run in the tool's root file system; the changes of each become a layer.
    pub steps: Option<Vec<StepEntry>>,
    /// Old spelling of `steps` with one step.
    pub install: Option<StepEntry>,
    /// Persistent directories of the language server that may be emptied, in addition to those of the tool.
    pub cache: Option<Vec<KeptEntry>>,
    /// Environment variables of the language server.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Probes of package ecosystems that its steps use and the tool does not; in a project's files without effect.
    #[serde(default)]
    pub ecosystems: BTreeMap<String, EcosystemTable>,
}

/// Merges `over` into `under`, key by key.
pub fn merge(under: Option<LspTable>, over: Option<LspTable>) -> Option<LspTable> {
    let (under, over) = match (under, over) {
        (Some(under), Some(over)) => (under, over),
        (under, over) => return over.or(under),
    };
    let (mut env, steps) = (under.env, over.steps.or_else(|| over.install.map(|step| vec![step])));
    env.extend(over.env);
    let ecosystems = under.ecosystems.into_iter().chain(over.ecosystems).collect();
    let cache = match (under.cache, over.cache) {
        (Some(under), Some(over)) => Some(under.into_iter().chain(over).collect()),
        (under, over) => over.or(under),
    };
    Some(LspTable {
        command: over.command.or(under.command),
        packages: over.packages.or(under.packages),
        steps: steps.or(under.steps),
        install: under.install,
        cache,
        env,
        ecosystems,
    })
}

/// Checks the table of a recipe, or of settings before they are merged.
pub fn check(table: LspTable) -> Result<Lsp, Error> {
    let steps = table.steps.or_else(|| table.install.map(|step| vec![step])).unwrap_or_default();
    let steps = steps.into_iter().map(|step| check_step("lsp.steps", step)).collect::<Result<_, _>>()?;
    let packages = table.packages.unwrap_or_default();
    check_packages("lsp.packages", &packages)?;
    check_variables("lsp.env", table.env.keys())?;
    if table.command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
        return Err(Error::Empty("lsp.command"));
    }
    let cache = kept_dirs::check("lsp.cache", table.cache.unwrap_or_default())?;
    let ecosystems = check_ecosystems(table.ecosystems)?;
    Ok(Lsp { command: table.command.unwrap_or_default(), packages, steps, cache, env: table.env, ecosystems })
}

/// Merges the settings of a server over the recipe's; steps of the settings without network access of their own get `network`.
pub fn over(recipe: Option<Lsp>, settings: Option<&LspTable>, network: &[Grant]) -> Result<Option<Lsp>, Error> {
    let Some(table) = settings else { return Ok(recipe) };
    let says_steps = table.steps.is_some() || table.install.is_some();
    let mut said = check(table.clone())?;
    for step in said.steps.iter_mut().filter(|step| step.network.is_empty()) {
        step.network = network.to_vec();
    }
    let Some(mut lsp) = recipe else { return Ok(Some(said)) };
    if table.command.is_some() {
        lsp.command = said.command;
    }
    if table.packages.is_some() {
        lsp.packages = said.packages;
    }
    if says_steps {
        lsp.steps = said.steps;
    }
    lsp.cache = kept_dirs::over(lsp.cache, said.cache);
    lsp.env.extend(said.env);
    lsp.ecosystems.extend(said.ecosystems);
    Ok(Some(lsp))
}

#[cfg(test)]
mod tests {
    use super::super::types::Step;
    use super::*;

    fn table(text: &str) -> LspTable {
        toml::from_str(text).expect("a table")
    }

    #[test]
    fn the_later_word_counts_key_by_key() {
        let under = table("command = [\"a\"]\npackages = [\"jq\"]\nsteps = [\"s\"]\ncache = [\"~/a\"]\nenv = { A = \"1\", B = \"1\" }");
        let over = table("install = \"other\"\ncache = [\"~/b\"]\nenv = { B = \"2\" }");
        let merged = check(merge(Some(under.clone()), Some(over.clone())).expect("both")).expect("it is right");
        let network = [Grant::parse("@x").expect("a grant")];
        let laid = super::over(Some(check(under).expect("it is right")), Some(&over), &network).expect("it is right");
        let laid = laid.expect("there is one");
        for lsp in [&merged, &laid] {
            assert_eq!((lsp.command.as_slice(), lsp.packages.as_slice()), (&["a".to_owned()][..], &["jq".to_owned()][..]));
            assert_eq!(lsp.steps.iter().map(Step::shown).collect::<Vec<_>>(), ["other"]);
            assert_eq!(lsp.cache.iter().map(|kept| kept.guest.as_str()).collect::<Vec<_>>(), ["~/a", "~/b"]);
            assert_eq!(lsp.env.values().map(String::as_str).collect::<Vec<_>>(), ["1", "2"]);
        }
        // A recipe names the hosts of its steps itself; a step in settings gets those of the tool's builds.
        assert_eq!((merged.steps[0].network.len(), laid.steps[0].network.as_slice()), (0, &network[..]));
    }

    #[test]
    fn wrong_lsp_settings_are_reported() {
        for (text, expect) in [
            ("command = []", "lsp.command must not be empty or zero"),
            (
                "packages = [\"a b\"]",
                "lsp.packages: \"a b\" is not a package name; write name, name=version, name (>= version), name/suite or name:i386, with \" [amd64]\" after it for one architecture only",
            ),
            ("steps = [\"\"]", "lsp.steps must not be empty or zero"),
            ("env = { \"A=\" = \"1\" }", "lsp.env: \"A=\" is not a variable name"),
            ("cache = [\"/etc\"]", "lsp.cache: \"/etc\" cannot be a persistent directory; write ~/name or an absolute path"),
        ] {
            assert_eq!(check(table(text)).expect_err(text).to_string(), expect);
        }
    }
}
