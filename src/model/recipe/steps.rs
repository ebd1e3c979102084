//! Steps and probes of a recipe, as written, and their checks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::{check_grants, check_name, check_variables, sorted};
use super::error::Error;
use super::types::{Probe, SHELL, Step};
use crate::derivation::Repeats;

/// A step: a shell command, or a table with more options.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a shell command, a list of words, or a table with `run`")]
pub enum StepEntry {
    /// A shell command line.
    Shell(String),
    /// A program and its arguments.
    Words(Vec<String>),
    /// A command with options.
    Table(StepTable),
}

/// A build command with options.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct StepTable {
    /// A shell command line, or a program and its arguments as a list.
    pub run: Command,
    /// Hosts that it may connect to: `name`, `name:port`, `*.name`, or an ecosystem such as `@pypi`; by default none.
    #[serde(default)]
    pub network: Vec<String>,
    /// Environment variables of the command.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Whether it sees the project's files, read-only at /workspace; by default not.
    #[serde(default)]
    pub project: bool,
    /// `fixed` gives the command the same random numbers in each run, one processor, and sorted directories; by default they are real. Nothing
    /// that it makes may be secret.
    #[serde(default)]
    pub random: RandomNumbers,
    /// Whether the command runs in a virtual machine with a constant clock, one processor that counts instructions in place of time, and
    /// `random = "fixed"`; by default not. It is slow, and may have no network.
    #[serde(default)]
    pub deterministic: bool,
}

impl StepTable {
    /// Returns a command without options.
    pub fn new(run: Command) -> StepTable {
        let (network, env, random) = (Vec::new(), BTreeMap::new(), RandomNumbers::Real);
        StepTable { run, network, env, project: false, random, deterministic: false }
    }
}

/// The random numbers of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RandomNumbers {
    /// Those of the kernel.
    #[default]
    Real,
    /// A stream that follows from the command.
    Fixed,
}

/// A command: a shell command line, or a list of words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a shell command or a list of words")]
pub enum Command {
    /// A shell command line.
    Shell(String),
    /// A program and its arguments.
    Words(Vec<String>),
}

/// Probe of a package ecosystem.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EcosystemTable {
    /// A command of the tool that makes a small request to the ecosystem.
    pub probe: Command,
}

/// Checks a step of the key `key`.
pub fn check_step(key: &'static str, entry: StepEntry) -> Result<Step, Error> {
    let table = match entry {
        StepEntry::Table(table) => table,
        StepEntry::Shell(text) => StepTable::new(Command::Shell(text)),
        StepEntry::Words(words) => StepTable::new(Command::Words(words)),
    };
    let network = sorted(check_grants(key, &table.network)?);
    check_variables(key, table.env.keys())?;
    if table.env.values().any(|value| value.contains('\0')) {
        return Err(Error::Empty("env"));
    }
    let repeats = match (table.deterministic, table.random) {
        (true, _) if !network.is_empty() => return Err(Error::DeterministicNetwork(key)),
        (true, _) => Repeats::Machine,
        (false, RandomNumbers::Fixed) => Repeats::Random,
        (false, RandomNumbers::Real) => Repeats::Nothing,
    };
    Ok(Step { run: check_command(key, table.run)?, network, env: table.env, project: table.project, repeats })
}

/// Checks the probes of ecosystems.
pub fn check_ecosystems(tables: BTreeMap<String, EcosystemTable>) -> Result<BTreeMap<String, Probe>, Error> {
    let one = |(name, table): (String, EcosystemTable)| {
        check_name(&name)?;
        Ok((name, Probe { run: check_command("ecosystems.probe", table.probe)? }))
    };
    tables.into_iter().map(one).collect()
}

fn check_command(key: &'static str, command: Command) -> Result<Vec<String>, Error> {
    let words = match command {
        Command::Shell(text) if text.trim().is_empty() => Vec::new(),
        Command::Shell(text) => vec![SHELL.to_owned(), "-c".to_owned(), text],
        Command::Words(words) => words,
    };
    if words.first().is_none_or(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        return Err(Error::Empty(key));
    }
    Ok(words)
}
