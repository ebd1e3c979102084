//! The host side of a sandbox's network: a broker for the agent that PID 1 started inside.
//!
//! The agent's sockets belong to the sandbox's network namespace and the broker's own to the host's. The broker is started,
//! in a process of its own, which waits until something is asked or may be asked from outside; for most programs that never
//! happens. It tells what is to be told, learned and recorded ([`super::serving`]); files and the terminal stay silo's.

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

use super::channel::{self, Channel};
use super::notices::Notices;
use super::serving::{Ears, Kind, Serving, say};
use super::streams::host;
use super::system::{self, Agent, MESSAGES};
use crate::broker::record::Record;
use crate::broker::{self, Asking, Door, Keys, Say, Terms};
use crate::grant::Port;
use crate::launch::error::Error;
use crate::launch::spec::{Asker, Network};

/// The most names learned in one run; a client that asks for more is no client of one ecosystem.
const MAX_LEARNED: usize = 1024;
/// The most of those who ask the ssh agent that wait for the broker.
const MAX_ASKING: usize = 16;

/// Where those come from who ask the user's ssh agent.
pub enum Askers {
    /// They connect to what listens inside.
    #[allow(dead_code, reason = "only the native tier has one, which macOS has not")]
    Listener(OwnedFd),
    /// They are handed over by this socket, one with each message.
    Handed(OwnedFd),
}

/// The host's end of a sandbox's network.
pub struct Outlet<'a> {
    network: &'a Network,
    notices: Notices,
    doors: Vec<Door>,
    channel: Option<OwnedFd>,
    keys: Option<Askers>,
    serving: Option<Serving>,
}

impl<'a> Outlet<'a> {
    /// Prepares it before there is a sandbox; fails where a port of this machine is taken.
    pub fn open(network: &'a Network, notices: Notices) -> Result<Outlet<'a>, Error> {
        let doors = network.ports.iter().map(door).collect::<Result<_, _>>()?;
        Ok(Outlet { network, notices, doors, channel: None, keys: None, serving: None })
    }

    /// Returns what to watch: when it is readable, something was asked, and [`Outlet::serve`] is due.
    pub fn asked(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd).or_else(|| self.serving.as_ref().map(Serving::link))
    }

    /// Takes the way to the agent.
    pub fn take_channel(&mut self, channel: OwnedFd) -> Result<(), Error> {
        self.channel = Some(channel);
        // Forked now, while this process has one thread; the broker itself waits until something is asked. Where the ssh
        // agent may be asked, that way must be there, too.
        if self.network.ssh_agent.is_none() { self.serve() } else { Ok(()) }
    }

    /// Whether the program may ask the user's ssh agent.
    pub fn has_keys(&self) -> bool {
        self.network.ssh_agent.is_some()
    }

    /// Takes the way by which those come who ask the user's ssh agent.
    pub fn take_keys(&mut self, keys: Askers) -> Result<(), Error> {
        self.keys = Some(keys);
        self.serve()
    }

    /// Serves the network from here on, or hears what the broker that does so tells.
    pub fn serve(&mut self) -> Result<(), Error> {
        let Some(channel) = self.channel.take() else {
            if self.serving.as_mut().is_some_and(|serving| !serving.listen()) {
                self.serving = None;
            }
            return Ok(());
        };
        let network = self.network;
        let notices = self.notices.clone();
        let ears = Ears {
            tell: Box::new(move |line| notices.tell(line)),
            learned: network.learn.as_ref().map(|learn| notebook(&learn.into)).transpose()?,
            record: network.record.as_ref().map(|record| Record::new(journal(&record.into, &record.title))),
        };
        open_as_many_as_allowed();
        let (ours, theirs) = host(system::pair(MESSAGES), "making the broker's link")?;
        let work = self.work(channel, theirs)?;
        let agent = if work.terms.keys.is_some() { Agent::Asked } else { Agent::None };
        let apart = system::apart(&work.descriptors(), agent, work, Work::is_asked, Work::run)?;
        self.serving = Some(Serving::new(ours, apart, ears));
        Ok(())
    }

    /// Puts together what the broker is to do.
    fn work(&mut self, channel: OwnedFd, link: OwnedFd) -> Result<Work, Error> {
        let network = self.network;
        let link = Arc::new(link);
        let to = |kind| -> Say {
            let link = Arc::clone(&link);
            Box::new(move |text| say(link.as_fd(), kind, text))
        };
        let mut handed = None;
        let keys = self.keys.take().zip(network.ssh_agent.as_ref()).map(|(askers, agent)| {
            let asking = match askers {
                Askers::Listener(listener) => Asking::Listener(UnixListener::from(listener)),
                Askers::Handed(socket) => {
                    let (sender, receiver) = mpsc::channel(MAX_ASKING);
                    handed = Some((socket, sender));
                    Asking::Handed(receiver)
                }
            };
            Keys { asking, agent: agent.socket.clone() }
        });
        let terms = Terms {
            policy: network.policy()?,
            learned: network.learn.as_ref().map(|_| to(Kind::Learned)),
            proxies: network.proxies.clone(),
            cure: match network.asker {
                Asker::Step => |grant| format!("\"{grant}\" under network would grant it"),
                Asker::Run => |grant| format!("`silo config network allow {grant}` would grant it"),
            },
            tell: to(Kind::Line),
            record: network.record.as_ref().map(|_| Record::new(to(Kind::Entry))),
            doors: std::mem::take(&mut self.doors),
            keys,
        };
        Ok(Work { channel, link, handed, terms })
    }
}

/// What the broker does in its own process, and the descriptors that it has there.
struct Work {
    channel: OwnedFd,
    link: Arc<OwnedFd>,
    handed: Option<(OwnedFd, mpsc::Sender<UnixStream>)>,
    terms: Terms,
}

impl Work {
    /// Returns the numbers of all descriptors that it needs.
    fn descriptors(&self) -> Vec<RawFd> {
        let mut all = vec![self.channel.as_raw_fd(), self.link.as_raw_fd()];
        all.extend(self.handed.as_ref().map(|(socket, _)| socket.as_raw_fd()));
        all.extend(self.terms.doors.iter().map(|door| door.listener.as_raw_fd()));
        if let Some(Keys { asking: Asking::Listener(listener), .. }) = &self.terms.keys {
            all.push(listener.as_raw_fd());
        }
        all
    }

    /// Waits until something may be asked; returns false where the sandbox ends before that.
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
        let Work { channel, link, handed, terms } = self;
        let open = move || {
            if let Some((socket, to)) = handed {
                tokio::task::spawn_local(channel::hand_over(socket, to));
            }
            Ok((Channel::new(channel)?, channel::word_on(link.try_clone()?)?))
        };
        broker::serve(open, terms)
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
