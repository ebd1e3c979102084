//! The environment of a run: the image's variables, the caller's that are passed, and those of the settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::config::{Override, Settings};
use crate::launch::spec::{Network, SSH_AGENT};
use crate::recipe::Run;

use super::user::User;

/// Variables of the terminal, which say nothing of the machine and without which programs look wrong.
const TERMINAL: [&str; 3] = ["TERM", "COLORTERM", "NO_COLOR"];

/// The variables of a run.
pub type Environment = BTreeMap<OsString, OsString>;

/// Where the variables of a run come from; the later fields win.
pub struct Sources<'a> {
    /// The image's own, as `NAME=value`.
    pub image: &'a [String],
    /// The caller.
    pub user: &'a User,
    /// Variables that name kept directories.
    pub kept: &'a [(String, PathBuf)],
    /// The settings in force.
    pub settings: &'a Settings,
    /// The recipe's part about running.
    pub recipe: Option<&'a Run>,
    /// Reads a variable of the caller's.
    pub caller: &'a dyn Fn(&str) -> Option<OsString>,
    /// The settings for this tool.
    pub over: &'a Override,
    /// Variables of the command itself.
    pub command: &'a [(String, String)],
}

/// Puts the variables of a run together.
pub fn environment(from: &Sources<'_>) -> Environment {
    let pairs = from.image.iter().filter_map(|pair| pair.split_once('='));
    let mut env: Environment = pairs.map(|(name, value)| (name.into(), value.into())).collect();
    env.insert("HOME".into(), from.user.home.clone().into());
    for name in ["USER", "LOGNAME"] {
        env.insert(name.into(), from.user.name.clone().into());
    }
    env.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
    env.extend(from.kept.iter().map(|(name, path)| (OsString::from(name), path.clone().into_os_string())));
    let passed = from.recipe.iter().flat_map(|run| &run.pass_env).chain(&from.settings.pass_env).chain(&from.over.pass_env);
    for name in passed.map(String::as_str).chain(TERMINAL) {
        if let Some(value) = (from.caller)(name) {
            env.insert(OsString::from(name), value);
        }
    }
    let own = from.over.env.iter().chain(from.command.iter().map(|(name, value)| (name, value)));
    env.extend(own.map(|(name, value)| (name.into(), value.into())));
    env
}

/// Adds what programs need to use a network; a variable that is set already stays.
pub fn add_network(variables: Vec<(String, String)>, network: Option<&Network>, env: &mut Environment) {
    for (name, value) in variables {
        env.entry(name.into()).or_insert_with(|| value.into());
    }
    if network.is_some_and(|network| network.ssh_agent.is_some()) {
        env.insert("SSH_AUTH_SOCK".into(), SSH_AGENT.into());
    }
}
