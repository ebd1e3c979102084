//! The host side of a sandbox's network: a broker that serves the agent inside.
//!
//! The agent's sockets belong to the sandbox's network namespace, the broker's sockets to the host's. The broker is forked into a process of
//! its own: at the first request, or before this process makes a thread. Most programs end before both. It reports status lines, learned
//! names and record entries to silo ([`super::broker_session`]); only silo writes files and the terminal.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, write};
use rustix::net::{RecvFlags, recv};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::mpsc;

use super::broker_session::{BrokerSession, Kind, Receivers, send_message};
use super::channel::{self, Channel};
use super::deferred_stderr::DeferredStderr;
use super::system::{self, Agent, MESSAGES};
use super::{recording, secrets};
use crate::broker::network_log::Record;
use crate::broker::{self, BrokerConfig, BrokerFiles, PortForward, Requester, Say, SshAgentAccess};
use crate::error::{Error, Limit, host};
use crate::spec::recording::Recording;
use crate::spec::secrets::Secrets;
use crate::spec::{GrantOrigin, Network};
use silo_base::grant::Port;

/// Most names learned in one run; the clients of one ecosystem need far fewer.
const MAX_LEARNED: usize = 1024;
/// Most queued connections to the ssh agent.
const MAX_ASKING: usize = 16;

/// The source of connections to the user's ssh agent.
pub enum SshAgentSource {
    /// A listening socket inside the sandbox.
    #[allow(dead_code, reason = "only the native tier has one, which macOS has not")]
    Listener(OwnedFd),
    /// A socket that passes one connection with each message.
    Handed(OwnedFd),
}

/// The host's end of a sandbox's network.
pub struct SandboxNetwork<'a> {
    network: &'a Network,
    notices: DeferredStderr,
    doors: Vec<PortForward>,
    channel: Option<OwnedFd>,
    keys: Option<SshAgentSource>,
    serving: Option<BrokerSession>,
    is_exceeded: bool,
}

impl<'a> SandboxNetwork<'a> {
    /// Opens the port forwards before the sandbox starts; fails if a host port is in use.
    pub fn open(network: &'a Network, notices: DeferredStderr) -> Result<SandboxNetwork<'a>, Error> {
        let doors = network.ports.iter().map(door).collect::<Result<_, _>>()?;
        Ok(SandboxNetwork { network, notices, doors, channel: None, keys: None, serving: None, is_exceeded: false })
    }

    /// Returns the file descriptor to poll; when it is readable, call [`Outlet::serve`].
    pub fn asked(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd).or_else(|| self.serving.as_ref().map(BrokerSession::link))
    }

    /// Returns the limit of data, if it is reached.
    pub fn exceeded(&self) -> Option<Limit> {
        self.network.max_bytes.filter(|_| self.is_exceeded).map(|bytes| Limit::Network { bytes })
    }

    /// Takes the channel to the agent. From then on its first request starts the broker.
    pub fn take_channel(&mut self, channel: OwnedFd) -> Result<(), Error> {
        self.channel = Some(channel);
        // Connections from outside make no request.
        if self.doors.is_empty() { Ok(()) } else { self.start() }
    }

    /// Starts the broker, unless it runs. Needs a process with one thread.
    pub fn start(&mut self) -> Result<(), Error> {
        // If the ssh agent may be used, its connections must be available.
        let is_complete = self.network.ssh_agent.is_none() || self.keys.is_some();
        if self.channel.is_some() && is_complete { self.serve() } else { Ok(()) }
    }

    /// True if the program may use the user's ssh agent.
    pub fn has_keys(&self) -> bool {
        self.network.ssh_agent.is_some()
    }

    /// Takes the source of connections to the user's ssh agent.
    pub fn take_keys(&mut self, keys: SshAgentSource) -> Result<(), Error> {
        self.keys = Some(keys);
        self.serve()
    }

    /// Starts the broker, unless the sandbox has ended, or handles the messages of the running one.
    pub fn serve(&mut self) -> Result<(), Error> {
        if self.channel.as_ref().is_some_and(is_closed) {
            // The sandbox has ended without a request.
            self.channel = None;
            return Ok(());
        }
        let Some(channel) = self.channel.take() else {
            let Some(serving) = &mut self.serving else { return Ok(()) };
            let is_served = serving.listen();
            self.is_exceeded |= serving.is_exceeded();
            if !is_served {
                self.serving = None;
            }
            return Ok(());
        };
        let network = self.network;
        let notices = self.notices.clone();
        let ears = Receivers {
            tell: Box::new(move |line| notices.print_line(line)),
            learned: network.learn.as_ref().map(|learn| notebook(&learn.into)).transpose()?,
            record: network.record.as_ref().map(|record| Record::new(journal(&record.into, &record.title))),
        };
        open_as_many_as_allowed();
        let (ours, theirs) = host(system::pair(MESSAGES), "making the broker's link")?;
        let work = self.work(channel, theirs)?;
        let agent = if work.terms.keys.is_some() { Agent::Asked } else { Agent::None };
        let files = BrokerFiles {
            max_bytes: network.recording.as_ref().map_or(0, |recording| recording.max_bytes),
            readable: network.recording.as_ref().and_then(|recording| recording.from.clone()),
        };
        let apart = system::apart(&work.descriptors(), (agent, &files), work, BrokerTask::is_ready, BrokerTask::run)?;
        self.serving = Some(BrokerSession::new(ours, apart, ears));
        Ok(())
    }

    /// Collects the broker's configuration.
    fn work(&mut self, channel: OwnedFd, link: OwnedFd) -> Result<BrokerTask, Error> {
        let network = self.network;
        let link = Arc::new(link);
        let to = |kind| -> Say {
            let link = Arc::clone(&link);
            Box::new(move |text| send_message(link.as_fd(), kind, text))
        };
        let mut handed = None;
        let keys = self.keys.take().zip(network.ssh_agent.as_ref()).map(|(askers, agent)| {
            let asking = match askers {
                SshAgentSource::Listener(listener) => Requester::Listener(UnixListener::from(listener)),
                SshAgentSource::Handed(socket) => {
                    let (sender, receiver) = mpsc::channel(MAX_ASKING);
                    handed = Some((socket, sender));
                    Requester::Handed(receiver)
                }
            };
            SshAgentAccess { asking, agent: agent.socket.clone() }
        });
        let terms = BrokerConfig {
            policy: network.policy(),
            learned: network.learn.as_ref().map(|_| to(Kind::Learned)),
            proxies: network.proxies.clone(),
            cure: match network.asker {
                GrantOrigin::Step => |grant| format!("\"{grant}\" under network would grant it"),
                GrantOrigin::Run => |grant| format!("`silo config network allow {grant}` would grant it"),
            },
            tell: to(Kind::Line),
            record: network.record.as_ref().map(|_| Record::new(to(Kind::Entry))),
            max_bytes: network.max_bytes,
            exceeded: to(Kind::Exceeded),
            doors: std::mem::take(&mut self.doors),
            keys,
            secrets: None,
            recorder: None,
        };
        let (secrets, recording) = (network.secrets.clone(), network.recording.clone());
        Ok(BrokerTask { channel, link, handed, terms, secrets, recording })
    }
}

/// The broker's task in its own process, with its file descriptors.
struct BrokerTask {
    channel: OwnedFd,
    link: Arc<OwnedFd>,
    handed: Option<(OwnedFd, mpsc::Sender<UnixStream>)>,
    terms: BrokerConfig,
    /// Secrets without their values.
    secrets: Option<Secrets>,
    recording: Option<Recording>,
}

impl BrokerTask {
    /// Returns the numbers of all file descriptors that the broker needs.
    fn descriptors(&self) -> Vec<RawFd> {
        let mut all = vec![self.channel.as_raw_fd(), self.link.as_raw_fd()];
        all.extend(self.handed.as_ref().map(|(socket, _)| socket.as_raw_fd()));
        all.extend(self.terms.doors.iter().map(|door| door.listener.as_raw_fd()));
        if let Some(SshAgentAccess { asking: Requester::Listener(listener), .. }) = &self.terms.keys {
            all.push(listener.as_raw_fd());
        }
        all
    }

    /// Waits for a possible first request, and then reads the values of secrets and opens the files of a recording. Returns false if the
    /// sandbox ends before that.
    fn is_ready(&mut self) -> bool {
        let is_asked = self.is_asked();
        if let Some(secrets) = self.secrets.take().filter(|_| is_asked) {
            self.terms.secrets = secrets::read(&secrets, &self.terms.tell);
        }
        if let Some(from) = self.recording.take().filter(|_| is_asked) {
            match recording::open(&from) {
                Ok(recorder) => self.terms.recorder = Some(recorder),
                Err(error) => {
                    (self.terms.tell)(&format!("the network of this step is not recorded: {error}"));
                    // Without its record a step has no network.
                    return from.from.is_none();
                }
            }
        }
        is_asked
    }

    /// Waits for a possible first request; returns false if the sandbox ends before that.
    fn is_asked(&self) -> bool {
        if !self.terms.doors.is_empty() || self.terms.keys.is_some() {
            return true;
        }
        let link: &OwnedFd = &self.link;
        loop {
            let mut fds = [PollFd::new(&self.channel, PollFlags::IN), PollFd::new(link, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                Err(_) => return true,
                Ok(_) => {}
            }
            let [channel, link] = fds.map(|fd| !fd.revents().is_empty());
            if channel {
                let peeked = recv(&self.channel, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
                return !matches!(peeked, Ok((0, _)) | Err(_));
            }
            if link {
                return false;
            }
        }
    }

    /// Serves until the sandbox has ended.
    fn run(self) -> io::Result<()> {
        let BrokerTask { channel, link, handed, terms, secrets: _, recording: _ } = self;
        let open = move || {
            if let Some((socket, to)) = handed {
                tokio::task::spawn_local(channel::hand_over(socket, to));
            }
            Ok((Channel::new(channel)?, channel::word_on(link.try_clone()?)?))
        };
        broker::serve(open, terms)
    }
}

/// True if the other end is closed and all its messages are read.
fn is_closed(channel: &OwnedFd) -> bool {
    matches!(recv(channel, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT), Ok((0, _)))
}

fn door(port: &Port) -> Result<PortForward, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.host.get()));
    let listener = listener.map_err(|source| Error::Port { port: port.host.get(), source })?;
    Ok(PortForward { listener, inside: port.guest.get() })
}

/// Raises this process's soft limit of open files to the hard limit. The default is low for programs that use `select`.
fn open_as_many_as_allowed() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A failure only limits the number of connections.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Appends each new line to a file.
fn notebook(path: &Path) -> Result<Say, Error> {
    let file = host(appending(path), &format!("opening {}", path.display()))?;
    let known = Mutex::new(BTreeSet::new());
    Ok(Box::new(move |line| {
        let mut known = known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.len() < MAX_LEARNED && known.insert(line.to_owned()) {
            // A line that cannot be written is missing in the file; the run continues.
            let _ = write(&file, format!("{line}\n").as_bytes());
        }
    }))
}

/// Writes lines to a file. The first line creates the file, with its title.
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
        // The run does not depend on the record, so a failure to write it is ignored.
        if let Some(file) = file {
            let _ = write(file, format!("{line}\n").as_bytes());
        }
    })
}

fn appending(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o600))
}
