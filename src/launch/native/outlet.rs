//! The host side of a sandbox's network: a broker for the agent that PID 1 started inside.
//!
//! The agent's sockets belong to the sandbox's network namespace and the broker's own to the host's. Threads are
//! started when the channel arrives, long after the sandbox's first process was copied from a process without any.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;
use rustix::process::{Resource, getrlimit, setrlimit};
use silo_init::agent::Literal;

use super::channel::Channel;
use super::plan::{Streams, host};
use crate::broker::{self, Broker, Say, Terms};
use crate::launch::error::Error;
use crate::launch::spec::{Asker, Network};

/// The most names learned in one run; a client that asks for more is no client of one ecosystem.
const MAX_LEARNED: usize = 1024;

/// Serves a sandbox's network from here on.
pub fn serve(network: &Network, channel: OwnedFd, streams: &Streams) -> Result<Broker, Error> {
    let terms = Terms {
        policy: network.policy()?,
        learned: network.learn.as_ref().map(|learn| notebook(&learn.into)).transpose()?,
        proxies: network.proxies.clone(),
        cure: match network.asker {
            Asker::Step => |grant| format!("\"{grant}\" under network would grant it"),
            Asker::Run => |grant| format!("`silo config network allow {grant}` would grant it"),
        },
        tell: teller(streams)?,
    };
    open_as_many_as_allowed();
    host(broker::serve(|| Channel::new(channel), terms), "serving the sandbox's network")
}

/// Raises this process's own limit of open files, which is low for the sake of programs that use `select`.
fn open_as_many_as_allowed() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With the limit as it was there are fewer connections.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Finds the hosts that are granted by address, or by a name that stands for the sandbox's own loopback.
pub fn literals(network: &Network) -> Result<Vec<Literal>, Error> {
    let policy = network.policy()?;
    let literal = |name: &str| match name {
        "localhost" => Some(Ipv4Addr::LOCALHOST),
        _ => name.parse().ok(),
    };
    let hosts: BTreeSet<_> = policy.allow.iter().filter_map(|grant| grant.host()).collect();
    let found = hosts.into_iter().filter_map(|host| {
        let (address, ranges) = (literal(host.as_str())?, policy.ranges(host));
        Some(Literal { address, name: host.as_str().to_owned(), ranges })
    });
    Ok(found.collect())
}

/// Writes lines where the program's errors go.
fn teller(streams: &Streams) -> Result<Say, Error> {
    let (errors, end): (BorrowedFd<'_>, _) = match streams {
        Streams::Log { log, .. } => (log.as_fd(), "\n"),
        Streams::Inherited => (rustix::stdio::stderr(), "\n"),
        // The caller's terminal is raw meanwhile.
        Streams::Terminal { .. } => (rustix::stdio::stderr(), "\r\n"),
    };
    let errors = host(rustix::io::fcntl_dupfd_cloexec(errors, 3), "copying the log's descriptor")?;
    // A line that nobody can be told is lost; the guest was answered all the same.
    Ok(Box::new(move |line| {
        let _ = write(&errors, format!("silo: {line}{end}").as_bytes());
    }))
}

/// Notes each new line in a file.
fn notebook(path: &Path) -> Result<Say, Error> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    let file = host(open(path, flags, Mode::from_raw_mode(0o644)), &format!("opening {}", path.display()))?;
    let known = Mutex::new(BTreeSet::new());
    Ok(Box::new(move |line| {
        let mut known = known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.len() < MAX_LEARNED && known.insert(line.to_owned()) {
            // What could not be noted was not learned; whoever reads the file finds less in it.
            let _ = write(&file, format!("{line}\n").as_bytes());
        }
    }))
}
