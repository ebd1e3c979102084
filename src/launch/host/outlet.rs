//! The host side of a sandbox's network: a broker for the agent that PID 1 started inside.
//!
//! The agent's sockets belong to the sandbox's network namespace and the broker's own to the host's. Threads are
//! started when the channel arrives, long after the sandbox's first process was copied from a process without any; and
//! only when something is asked or may be asked from outside, which for most programs never happens.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::channel::Channel;
use super::notices::Notices;
use super::streams::host;
use crate::broker::record::Record;
use crate::broker::{self, Asking, Broker, Door, Keys, Say, Terms};
use crate::grant::Port;
use crate::launch::error::Error;
use crate::launch::spec::{Asker, Network};

/// The most names learned in one run; a client that asks for more is no client of one ecosystem.
const MAX_LEARNED: usize = 1024;

/// The host's end of a sandbox's network.
pub struct Outlet<'a> {
    network: &'a Network,
    notices: Notices,
    doors: Vec<Door>,
    channel: Option<OwnedFd>,
    keys: Option<Asking>,
    broker: Option<Broker>,
}

impl<'a> Outlet<'a> {
    /// Prepares it before there is a sandbox; fails where a port of this machine is taken.
    pub fn open(network: &'a Network, notices: Notices) -> Result<Outlet<'a>, Error> {
        let doors = network.ports.iter().map(door).collect::<Result<_, _>>()?;
        Ok(Outlet { network, notices, doors, channel: None, keys: None, broker: None })
    }

    /// Returns what to watch: when it is readable, something was asked, and [`Outlet::serve`] is due.
    pub fn asked(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Takes the way to the agent.
    pub fn take_channel(&mut self, channel: OwnedFd) -> Result<(), Error> {
        self.channel = Some(channel);
        // Who comes from outside is waited for at once, and whoever asks for keys is when that way is there, too.
        let at_once = !self.doors.is_empty() && self.network.ssh_agent.is_none();
        if at_once { self.serve() } else { Ok(()) }
    }

    /// Whether the program may ask the user's ssh agent.
    pub fn has_keys(&self) -> bool {
        self.network.ssh_agent.is_some()
    }

    /// Takes the way by which those come who ask the user's ssh agent.
    pub fn take_keys(&mut self, keys: Asking) -> Result<(), Error> {
        self.keys = Some(keys);
        self.serve()
    }

    /// Serves the network from here on.
    pub fn serve(&mut self) -> Result<(), Error> {
        let Some(channel) = self.channel.take() else { return Ok(()) };
        let network = self.network;
        let notices = self.notices.clone();
        let keys = self.keys.take().zip(network.ssh_agent.as_ref());
        let terms = Terms {
            policy: network.policy()?,
            learned: network.learn.as_ref().map(|learn| notebook(&learn.into)).transpose()?,
            proxies: network.proxies.clone(),
            cure: match network.asker {
                Asker::Step => |grant| format!("\"{grant}\" under network would grant it"),
                Asker::Run => |grant| format!("`silo config network allow {grant}` would grant it"),
            },
            tell: Box::new(move |line| notices.tell(line)),
            record: network.record.as_ref().map(|record| Record::new(journal(&record.into, &record.title))),
            doors: std::mem::take(&mut self.doors),
            keys: keys.map(|(asking, agent)| Keys { asking, agent: agent.socket.clone() }),
        };
        open_as_many_as_allowed();
        self.broker = Some(host(broker::serve(|| Channel::new(channel), terms), "serving the sandbox's network")?);
        Ok(())
    }
}

fn door(port: &Port) -> Result<Door, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.host.get()));
    let listener = listener.map_err(|source| Error::Port { port: port.host.get(), source })?;
    Ok(Door { listener, inside: port.guest.get() })
}

/// Raises this process's own limit of open files, which is low for the sake of programs that use `select`.
fn open_as_many_as_allowed() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With the limit as it was there are fewer connections.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Notes each new line in a file.
fn notebook(path: &Path) -> Result<Say, Error> {
    let file = host(appending(path), &format!("opening {}", path.display()))?;
    let known = Mutex::new(BTreeSet::new());
    Ok(Box::new(move |line| {
        let mut known = known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.len() < MAX_LEARNED && known.insert(line.to_owned()) {
            // What could not be noted was not learned; whoever reads the file finds less in it.
            let _ = write(&file, format!("{line}\n").as_bytes());
        }
    }))
}

/// Writes lines to a file that is made, with its title, for the first of them.
fn journal(path: &Path, title: &str) -> Say {
    let (path, title) = (path.to_owned(), title.to_owned());
    let file = OnceLock::new();
    Box::new(move |line| {
        let file = file.get_or_init(|| {
            silo_store::private::make_dir(path.parent()?).ok()?;
            let file = appending(&path).ok()?;
            write(&file, format!("{title}\n").as_bytes()).ok()?;
            Some(file)
        });
        // A run goes on whether or not it can be noted; nothing depends on the note.
        if let Some(file) = file {
            let _ = write(file, format!("{line}\n").as_bytes());
        }
    })
}

fn appending(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o600))
}
