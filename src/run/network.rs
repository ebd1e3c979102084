//! The network of a run: grants, forwarded ports, the ssh agent, and the record of what was reached.

use std::fs;
use std::path::{Path, PathBuf};

use crate::broker::proxies::Proxies;
use crate::build::network::{self, Outside, Reach};
use crate::config::Settings;
use crate::ecosystem;
use crate::event::Sink;
use crate::grant::Port;
use crate::home::Home;
use crate::insight::network as journal;
use crate::launch::spec::{Asker, Network, Record, SshAgent};
use crate::recipe::Recipe;

use super::error::Error;

/// What decides the network of a run.
pub struct Given<'a> {
    /// The home.
    pub home: &'a Home,
    /// The tool's name.
    pub tool: &'a str,
    /// Its recipe; without one, nothing is granted.
    pub recipe: Option<&'a Recipe>,
    /// The settings in force.
    pub settings: &'a Settings,
    /// The image's composed root.
    pub root: &'a Path,
    /// What the machine knows of the network.
    pub outside: &'a Outside,
    /// Where names are noted that were reached with `--learn`.
    pub learn: Option<&'a Lesson>,
    /// What the command line asks for.
    pub asked: Asked,
    /// Receives progress.
    pub sink: Sink<'a>,
}

/// What the command line opens besides the settings.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Forwarded ports.
    pub ports: Vec<Port>,
    /// The socket of the user's ssh agent, if it may be asked.
    pub ssh_agent: Option<PathBuf>,
    /// Names that may be reached.
    pub allow: Vec<String>,
}

/// Decides what a run may reach; the files and variables are what its programs need for that.
pub fn reach(given: Given<'_>) -> Reach {
    let named = given.recipe.is_some() || !given.asked.allow.is_empty();
    let reach = named.then(|| {
        let of_recipe = given.recipe.map_or(&[][..], |recipe| &recipe.run.network);
        // Without a recipe only typed names count.
        let mut granted = given.recipe.map(|_| given.settings.network(given.tool, of_recipe)).unwrap_or_default();
        granted.allow.extend(given.asked.allow.iter().filter(|name| !granted.allow.contains(name)).cloned().collect::<Vec<_>>());
        let root = [given.root.to_owned()];
        let wish = network::Wish {
            allow: &granted.allow,
            deny: &granted.deny,
            ecosystems: &given.settings.ecosystems,
            learn: given.learn.map(|lesson| lesson.notes.path().to_owned()),
        };
        network::for_run(given.home, given.outside, &root, wish, given.sink)
    });
    let mut reach = reach.unwrap_or_else(nothing);
    let mut ports = given.settings.ports(given.tool).to_vec();
    // What is typed counts more: it may forward a port of this machine elsewhere for once.
    ports.retain(|port| given.asked.ports.iter().all(|own| own.host != port.host));
    ports.extend(given.asked.ports);
    ports.sort();
    ports.dedup();
    let agent = given.asked.ssh_agent.map(|socket| SshAgent { socket });
    if !ports.is_empty() || agent.is_some() {
        let network = reach.network.get_or_insert_with(|| Network { asker: Asker::Run, proxies: Proxies::default(), ..Network::default() });
        network.ports = ports;
        network.ssh_agent = agent;
    }
    reach
}

/// A tool without a recipe is granted nothing.
fn nothing() -> Reach {
    Reach { network: None, files: Vec::new(), env: Vec::new() }
}

/// The names that a run reaches while everything with a public address is granted.
pub struct Lesson {
    notes: tempfile::NamedTempFile,
}

impl Lesson {
    /// Begins one.
    pub fn begin() -> Result<Lesson, Error> {
        Ok(Lesson { notes: tempfile::NamedTempFile::new().map_err(Error::Temporary)? })
    }

    /// Describes what was reached, and the grant that would cover it.
    pub fn summary(&self) -> Result<String, Error> {
        let names = ecosystem::noted(self.notes.path())?;
        if names.is_empty() {
            return Ok("it reached nothing that needs a grant".to_owned());
        }
        // What a grant without a port covers needs none.
        let short = |name: &String| name.strip_suffix(":443").or_else(|| name.strip_suffix(":80")).unwrap_or(name).to_owned();
        let names: std::collections::BTreeSet<String> = names.iter().map(short).collect();
        let names: Vec<String> = names.into_iter().collect();
        Ok(format!("it reached {}\n  try: silo config network allow {}", names.join(", "), names.join(" ")))
    }
}

/// Returns the record that a run's network is written to.
pub fn record(home: &Home, title: &journal::Title, pid: u32) -> Record {
    Record { into: home.network_logs().join(journal::file_name(title.started, pid)), title: title.line() }
}

/// Removes the oldest records once there is a new one.
pub fn prune_records(home: &Home, record: Option<&Path>) {
    if record.is_some_and(|record| fs::symlink_metadata(record).is_ok()) {
        journal::prune(home);
    }
}
