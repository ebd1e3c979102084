//! The configuration of the broker for one sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use silo_base::grant::{Host, MACHINE, Permit, Policy, Specificity};
use silo_wire::ports::PortRange;
use tokio::sync::mpsc::Receiver;

use super::intercept::Secrets;
use super::network_log::{Record, Say};
use super::recording::Recorder;
use super::upstream_proxy::Proxies;

/// One port forward.
pub struct PortForward {
    /// The listener on this machine.
    pub listener: std::net::TcpListener,
    /// The port inside.
    pub inside: u16,
}

/// Access to the user's ssh agent.
pub struct SshAgentAccess {
    /// The source of the guest's connections.
    pub asking: Requester,
    /// The agent's socket on this machine.
    pub agent: PathBuf,
}

/// The source of a guest's connections.
pub enum Requester {
    /// Connections to a listener inside.
    Listener(std::os::unix::net::UnixListener),
    /// Connections from the VM's channel, each as a socket.
    Handed(Receiver<std::os::unix::net::UnixStream>),
}

/// The broker's configuration: the grants of a sandbox, and the receivers of its reports.
pub struct BrokerConfig {
    /// The granted hosts.
    pub policy: Policy,
    /// Set while a run learns: grants every name with a public address, and receives each `name:port` that was reached.
    pub learned: Option<Say>,
    /// The host's own proxies.
    pub proxies: Proxies,
    /// Returns the command that would grant a refused name.
    pub cure: fn(&str) -> String,
    /// Receives one line for each name that was refused or not reached.
    pub tell: Say,
    /// Receives every lookup and connection.
    pub record: Option<Record>,
    /// The most bytes of all connections to hosts, in both directions.
    pub max_bytes: Option<u64>,
    /// Called when they are used up.
    pub exceeded: Say,
    /// Port forwards into the sandbox.
    pub doors: Vec<PortForward>,
    /// Access to the user's ssh agent.
    pub keys: Option<SshAgentAccess>,
    /// The secrets with their values.
    pub secrets: Option<Arc<Secrets>>,
    /// Records the responses of hosts, or answers from a record.
    pub recorder: Option<Arc<Recorder>>,
}

/// The files of a broker that records, or answers from a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerFiles {
    /// The most bytes that it may append to a file.
    pub max_bytes: u64,
    /// A directory that it may read.
    pub readable: Option<PathBuf>,
}

/// The ports that are open while a run learns: those of git and of package clients.
const LEARNING: [PortRange; 3] = [PortRange::SSH, PortRange::HTTP, PortRange::HTTPS];

impl BrokerConfig {
    /// Decides about a connection; `None` if it is refused.
    pub fn judge(&self, host: &Host, port: u16) -> Option<Permit> {
        let learning = || {
            let open = self.is_learning(host) && LEARNING.iter().any(|range| range.contains(port));
            open.then_some(Permit { cover: Specificity::Family, raw: false })
        };
        self.policy.judge(host, port).or_else(learning)
    }

    /// Returns the granted ports of a host.
    pub fn ranges(&self, host: &Host) -> Vec<PortRange> {
        let mut ranges = self.policy.ranges(host);
        if self.is_learning(host) {
            ranges.extend(LEARNING);
        }
        ranges
    }

    fn is_learning(&self, host: &Host) -> bool {
        self.learned.is_some() && !host.is_address() && host.as_str() != MACHINE
    }
}
