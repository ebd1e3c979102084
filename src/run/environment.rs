//! Builds the environment of a run from the image, the passed variables and the settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use silo_launch::spec::secrets::Secret;
use silo_launch::spec::{Network, SSH_AGENT};
use silo_model::config::{Override, Settings};
use silo_model::recipe::Run;

use super::user::User;

/// Terminal variables. They reveal nothing about the machine, and programs look wrong without them.
const TERMINAL: [&str; 3] = ["TERM", "COLORTERM", "NO_COLOR"];

/// The variables of a run.
pub type Environment = BTreeMap<OsString, OsString>;

/// Sources of a run's variables; later fields win.
pub struct Sources<'a> {
    /// Variables of the image.
    pub image: &'a BTreeMap<String, String>,
    /// The caller.
    pub user: &'a User,
    /// Variables that name persistent directories.
    pub kept: &'a [(String, PathBuf)],
    /// The settings in force.
    pub settings: &'a Settings,
    /// The recipe's `run` section.
    pub recipe: Option<&'a Run>,
    /// Reads one of the caller's variables.
    pub caller: &'a dyn Fn(&str) -> Option<OsString>,
    /// The settings for this tool.
    pub over: &'a Override,
    /// Secrets, whose variables hold placeholders.
    pub secrets: &'a [Secret],
    /// Variables of the command itself.
    pub command: &'a [(String, String)],
}

/// Builds the environment of a run.
pub fn environment(from: &Sources<'_>) -> Environment {
    let mut env: Environment = from.image.iter().map(|(name, value)| (name.into(), value.into())).collect();
    env.insert("HOME".into(), from.user.home.clone().into());
    for name in ["USER", "LOGNAME"] {
        env.insert(name.into(), from.user.name.clone().into());
    }
    env.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
    env.extend(from.kept.iter().map(|(name, path)| (OsString::from(name), path.clone().into_os_string())));
    let passed = from.recipe.iter().flat_map(|run| &run.pass_env).chain(&from.settings.pass_env).chain(&from.over.pass_env);
    // Reading the variable of a secret would copy its value.
    let is_open = |name: &&str| from.secrets.iter().all(|secret| secret.name != *name);
    for name in passed.map(String::as_str).chain(TERMINAL).filter(is_open) {
        if let Some(value) = (from.caller)(name) {
            env.insert(OsString::from(name), value);
        }
    }
    let own = from.over.env.iter().chain(from.command.iter().map(|(name, value)| (name, value)));
    env.extend(own.map(|(name, value)| (name.into(), value.into())));
    env.extend(from.secrets.iter().map(|secret| (OsString::from(&secret.name), OsString::from(&secret.placeholder))));
    env
}

/// Adds the variables that programs need for the network; variables that are set already stay.
pub fn add_network(variables: Vec<(String, String)>, network: Option<&Network>, env: &mut Environment) {
    for (name, value) in variables {
        env.entry(name.into()).or_insert_with(|| value.into());
    }
    if network.is_some_and(|network| network.ssh_agent.is_some()) {
        env.insert("SSH_AUTH_SOCK".into(), SSH_AGENT.into());
    }
}
