//! The network of a run: grants, port forwards, ssh agent, and the connection log.

use std::fs;
use std::path::{Path, PathBuf};

use silo_base::event::Sink;
use silo_base::grant::{Grant, HostGrant, Port};
use silo_base::home::Home;
use silo_build::host_network::HostNetwork;
use silo_build::network::{self, NetworkPatch};
use silo_insight::network as journal;
use silo_launch::broker::upstream_proxy::Proxies;
use silo_launch::spec::secrets::Secrets;
use silo_launch::spec::{GrantOrigin, Network, Record, SshAgent};
use silo_model::config::Settings;
use silo_model::ecosystem;
use silo_model::recipe::Recipe;

use super::error::Error;

/// Inputs that decide the network of a run.
pub struct NetworkInputs<'a> {
    /// Silo's home directory.
    pub home: &'a Home,
    /// Name of the tool.
    pub tool: &'a str,
    /// Its recipe; without one, nothing is granted.
    pub recipe: Option<&'a Recipe>,
    /// The settings in force.
    pub settings: &'a Settings,
    /// The image's composed root.
    pub root: &'a Path,
    /// Proxies and CA certificates of the host.
    pub outside: &'a HostNetwork,
    /// Record of the hosts reached with `--learn`.
    pub learn: Option<&'a LearnRun>,
    /// Grants of the command line.
    pub asked: RequestedGrants,
    /// Secrets of the tool.
    pub secrets: Option<Secrets>,
    /// Receives progress.
    pub sink: Sink<'a>,
}

/// Grants of the command line, in addition to the settings.
#[derive(Clone, Debug, Default)]
pub struct RequestedGrants {
    /// Port forwards.
    pub ports: Vec<Port>,
    /// Socket of the user's ssh agent, if it is passed.
    pub ssh_agent: Option<PathBuf>,
    /// Allowed hosts.
    pub allow: Vec<Grant>,
}

/// Decides the network access of a run, with the files and variables that programs need for it.
pub fn reach(given: NetworkInputs<'_>) -> NetworkPatch {
    let named = given.recipe.is_some() || !given.asked.allow.is_empty();
    let reach = named.then(|| {
        let of_recipe = given.recipe.map_or(&[][..], |recipe| &recipe.run.network);
        // Without a recipe, only hosts on the command line are granted.
        let mut granted = given.recipe.map(|_| given.settings.network(given.tool, of_recipe)).unwrap_or_default();
        granted.allow.extend(given.asked.allow.iter().filter(|name| !granted.allow.contains(name)).cloned().collect::<Vec<_>>());
        let root = [given.root.to_owned()];
        let wish = network::NetworkOptions {
            allow: &granted.allow,
            deny: &granted.deny,
            ecosystems: &given.settings.ecosystems,
            learn: given.learn.map(|lesson| lesson.notes.path().to_owned()),
            authority: given.secrets.as_ref().map(|secrets| secrets.authority.pem()),
        };
        network::for_run(given.home, given.outside, &root, wish, given.sink)
    });
    let mut reach = reach.unwrap_or_else(nothing);
    if let Some(network) = &mut reach.network {
        network.secrets = given.secrets;
    }
    let mut ports = given.settings.ports(given.tool).to_vec();
    // The command line wins: it may forward a port of this machine elsewhere for this run.
    ports.retain(|port| given.asked.ports.iter().all(|own| own.host != port.host));
    ports.extend(given.asked.ports);
    ports.sort();
    ports.dedup();
    let agent = given.asked.ssh_agent.map(|socket| SshAgent { socket });
    if !ports.is_empty() || agent.is_some() {
        let network =
            reach.network.get_or_insert_with(|| Network { asker: GrantOrigin::Run, proxies: Proxies::default(), ..Network::default() });
        network.ports = ports;
        network.ssh_agent = agent;
    }
    reach
}

/// Without a recipe, nothing is granted.
fn nothing() -> NetworkPatch {
    NetworkPatch { network: None, files: Vec::new(), env: Vec::new() }
}

/// Records the hosts that a run reaches while all public addresses are granted.
pub struct LearnRun {
    notes: tempfile::NamedTempFile,
}

impl LearnRun {
    /// Starts a record.
    pub fn begin() -> Result<LearnRun, Error> {
        Ok(LearnRun { notes: tempfile::NamedTempFile::new().map_err(Error::Temporary)? })
    }

    /// Describes the reached hosts, and suggests a grant.
    pub fn summary(&self) -> Result<String, Error> {
        let names = ecosystem::noted(self.notes.path())?;
        if names.is_empty() {
            return Ok("the run reached no host that needs a grant".to_owned());
        }
        // A grant without a port covers 80 and 443.
        let short = |name: &HostGrant| {
            let name = name.as_str();
            name.strip_suffix(":443").or_else(|| name.strip_suffix(":80")).unwrap_or(name).to_owned()
        };
        let names: std::collections::BTreeSet<String> = names.iter().map(short).collect();
        let names: Vec<String> = names.into_iter().collect();
        Ok(format!("the run reached {}\n  try: silo config network allow {}", names.join(", "), names.join(" ")))
    }
}

/// Returns the target of a run's connection log.
pub fn record(home: &Home, title: &journal::Title, pid: u32) -> Record {
    Record { into: home.network_logs().join(journal::file_name(title.started, pid)), title: title.line() }
}

/// Removes the oldest logs if this run wrote one.
pub fn prune_records(home: &Home, record: Option<&Path>) {
    if record.is_some_and(|record| fs::symlink_metadata(record).is_ok()) {
        journal::prune(home);
    }
}
