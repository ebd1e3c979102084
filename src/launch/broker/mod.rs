//! The broker: a sandbox's only access to the network, by name.
//!
//! A sandbox has only a loopback interface. The agent on it asks the broker, outside, which names and ports are allowed, and asks it to
//! connect ([`silo_wire`] has the messages). The broker checks the *name*, resolves it, checks the address, connects, and copies bytes. So
//! even root in the guest reaches only granted hosts.
//!
//! **Invariant.** Only [`silo_wire`] parses messages from the guest. [`sni`] parses the TLS ClientHello on port 443, [`http_head`] the
//! HTTP head for the upstream proxy, and hyper the requests to hosts of secrets ([`intercept`]) and of build steps ([`recording`]). Size and
//! time are bounded, and one budget ([`budget`]) covers all resources that the guest makes the broker hold.
//!
//! A granted name is no proof of the service behind it: a server with many names may answer, inside the encrypted connection, for any of
//! them.

mod agent_channel;
mod budget;
pub mod http_head;
pub mod network_log;
mod own_addresses;
mod pending;
pub mod sni;
pub mod upstream_proxy;
pub mod value;

pub mod authority;
mod connections;
mod dial;
pub mod exchange;

mod http_carrier;

mod tls_inspection;

pub mod intercept;

pub mod recording;

mod config;

mod copy;
mod shared;

mod port_forward;
mod relay;
mod ssh_agent;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use silo_wire::id::AgentId;
use silo_wire::ports::PortRange;
use silo_wire::{Outcome, ToAgent, ToBroker};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::Instant;

use silo_base::grant::{Host, MACHINE, that_covers};

pub use agent_channel::AgentChannel;
use budget::ConnectionPermit;
pub use config::{BrokerConfig, BrokerFiles, PortForward, Requester, SshAgentAccess};
pub use network_log::Say;
use network_log::{Entry, Verdict};
use relay::Place;
pub use shared::MAX_LINES;
use shared::{DialPermit, MAX_DIALLING, PendingConnection, Shared};

/// The most DNS lookups at a time, each in its own thread; more of them wait.
const MAX_LOOKUPS: usize = 16;
/// The stack of a lookup thread: enough for the C library's resolver.
const LOOKUP_STACK_BYTES: usize = 512 << 10;
/// The most answers queued for the agent; the agent itself has fewer open requests.
const MAX_ANSWERS: usize = 1024;
/// Timeout for the guest's side of a connection after the dial succeeded.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two sweeps over unclaimed connections.
const SWEEP: Duration = Duration::from_secs(5);
/// Time for which the channel is read after the sandbox ended; its last messages arrive just before its end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Serves the agent until its sandbox has ended and its outgoing data is drained.
///
/// `open` runs inside the async runtime; it returns the channel, and a future that resolves when the sandbox ends.
pub fn serve<C: AgentChannel, E: Future<Output = ()>>(
    open: impl FnOnce() -> io::Result<(C, E)>,
    mut terms: BrokerConfig,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_LOOKUPS)
        .thread_stack_size(LOOKUP_STACK_BYTES)
        .build()?;
    let set = LocalSet::new();
    let served = set.block_on(&runtime, async {
        let (doors, keys) = (std::mem::take(&mut terms.doors), terms.keys.take());
        let (channel, ended) = open()?;
        let hall = Shared::new(channel, terms);
        {
            let mut served = std::pin::pin!(Rc::clone(&hall).serve(doors, keys));
            tokio::select! {
                biased;
                // A broken channel means that the sandbox has ended.
                _ = &mut served => {}
                () = ended => drop(tokio::time::timeout(LAST_WORDS, served).await),
            }
        }
        // Lets the tasks of the last messages start.
        tokio::task::yield_now().await;
        hall.waiting.end();
        hall.conversations.finish().await;
        hall.report_refused();
        Ok(())
    });
    drop(set);
    // A thread in a DNS lookup cannot be interrupted, so do not wait for it.
    runtime.shutdown_background();
    served
}

impl<C: AgentChannel> Shared<C> {
    async fn serve(self: Rc<Shared<C>>, doors: Vec<PortForward>, keys: Option<SshAgentAccess>) -> io::Result<()> {
        for door in doors {
            let (hall, port) = (Rc::clone(&self), door.inside);
            tokio::task::spawn_local(async move {
                if let Err(error) = port_forward::serve(Rc::clone(&hall), door).await {
                    hall.show_once(&format!("the port forward to port {port} in the sandbox failed: {error}"));
                }
            });
        }
        if let Some(keys) = keys {
            let hall = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                if let Err(error) = ssh_agent::serve(Rc::clone(&hall), keys).await {
                    hall.show_once(&format!("forwarding the ssh agent failed: {error}"));
                }
            });
        }
        tokio::task::spawn_local(Rc::clone(&self).sweep());
        while let Some((ask, connection)) = self.channel.next().await? {
            let hall = Rc::clone(&self);
            match (ask, connection) {
                (ToBroker::Lookup { id, name }, _) => self.answer(ToAgent::Ports { id, ranges: self.lookup(&name) }),
                (ToBroker::Connect { id, name, port }, _) => {
                    let permit = if self.dialling.get() < MAX_DIALLING { self.permit(&name, port) } else { self.crowded(&name, port) };
                    let Some(permit) = permit else {
                        self.answer(ToAgent::Outcome { id, outcome: Outcome::Refused });
                        continue;
                    };
                    let dialling = DialPermit::of(&self);
                    tokio::task::spawn_local(async move {
                        let outcome = hall.connect(id, &name, port, permit).await;
                        drop(dialling);
                        // The agent may be gone; then no one needs the answer.
                        let _ = hall.channel.answer(&ToAgent::Outcome { id, outcome }).await;
                    });
                }
                (ToBroker::Accepted { id }, Some(guest)) => {
                    let Some(ready) = self.ready.borrow_mut().remove(&id) else { continue };
                    self.conversations.open();
                    tokio::task::spawn_local(async move {
                        hall.converse(guest, ready).await;
                        hall.conversations.close();
                    });
                }
                (ToBroker::Accepted { .. }, None) => {}
                (ToBroker::Entered { id }, connection) => self.waiting.complete(id, connection),
                (ToBroker::Nobody { id }, _) => self.waiting.complete(id, None),
            }
        }
        Ok(())
    }

    /// Drops connections that the agent never claimed.
    async fn sweep(self: Rc<Shared<C>>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            self.ready.borrow_mut().retain(|_, ready| ready.until > now);
        }
    }

    /// Sends an answer without waiting: an agent that does not read must not block the broker.
    fn answer(self: &Rc<Shared<C>>, answer: ToAgent) {
        if self.answers.get() >= MAX_ANSWERS {
            return;
        }
        self.answers.set(self.answers.get() + 1);
        let hall = Rc::clone(self);
        tokio::task::spawn_local(async move {
            // The agent may be gone; then no one needs the answer.
            let _ = hall.channel.answer(&answer).await;
            hall.answers.set(hall.answers.get() - 1);
        });
    }

    fn lookup(&self, name: &str) -> Vec<PortRange> {
        let Some(host) = Host::parse(name) else { return Vec::new() };
        let ranges = self.terms.ranges(&host);
        if ranges.is_empty() {
            // The host's services are rarely at the ports that a grant without a port covers.
            let grant = if host.as_str() == MACHINE { format!("{MACHINE}:PORT") } else { host.as_str().to_owned() };
            self.refuse(host.as_str(), &grant);
            self.note(&Entry { name: host.as_str().to_owned(), port: None, verdict: Verdict::Denied, sent: 0, received: 0 });
        }
        ranges
    }

    async fn connect(&self, id: AgentId, name: &str, port: u16, permit: ConnectionPermit) -> Outcome {
        let Some(host) = Host::parse(name) else { return Outcome::Denied };
        let name = host.as_str().to_owned();
        let outcome = self.reach(id, host, port, permit).await;
        if let Some(verdict) = Verdict::of(outcome) {
            self.note(&Entry { name, port: Some(port), verdict, sent: 0, received: 0 });
        }
        outcome
    }

    async fn reach(&self, id: AgentId, host: Host, port: u16, permit: ConnectionPermit) -> Outcome {
        let place = format!("{}:{port}", host.as_str());
        let Some(leave) = self.terms.judge(&host, port) else {
            self.refuse(&place, &that_covers(&host, port));
            return Outcome::Denied;
        };
        if self.conversations.is_exceeded() {
            return Outcome::Refused;
        }
        let until = || Instant::now() + PATIENCE;
        if let Some(recorder) = self.terms.recorder.as_ref().filter(|recorder| recorder.is_replay()) {
            if !recorder.inspects(&host, port) && !recorder.pass((&host, port), "") {
                return Outcome::Refused;
            }
            self.ready.borrow_mut().insert(id, PendingConnection { dialled: None, host, port, leave, permit, until: until() });
            return Outcome::Open;
        }
        match dial::dial(&host, port, leave.cover, &self.terms.policy, &self.terms.proxies).await {
            Ok(dialled) => {
                if let Some(learned) = &self.terms.learned {
                    learned(&place);
                }
                let dialled = Some(dialled);
                self.ready.borrow_mut().insert(id, PendingConnection { dialled, host, port, leave, permit, until: until() });
                Outcome::Open
            }
            Err(error) => {
                self.show_once(&format!("{place}: {error}"));
                error.outcome()
            }
        }
    }

    async fn converse(&self, guest: TcpStream, ready: PendingConnection) {
        let PendingConnection { dialled, host, port, leave, permit, until: _ } = ready;
        match &dialled {
            Some(dialled) => permit.fit([&guest, &dialled.stream]),
            None => permit.fit([&guest]),
        }
        let (secrets, recorder) = (self.terms.secrets.as_ref(), self.terms.recorder.as_ref());
        let place = Place { host: &host, port, raw: leave.raw, secrets, recorder };
        let relayed = tokio::select! {
            biased;
            () = self.conversations.exceeded() => Err(relay::Error::Exceeded),
            relayed = relay::relay(guest, dialled, place, &self.conversations) => relayed,
        };
        if self.conversations.is_exceeded() {
            (self.terms.exceeded)("");
        }
        let (verdict, sent, received) = match relayed {
            Ok((sent, received)) => (Verdict::Reached, sent, received),
            // A broken connection needs no message; both sides have seen it.
            Err(
                relay::Error::Io(_)
                | relay::Error::Secret(intercept::Error::Io(_))
                | relay::Error::Recording(recording::carry::Error::Io(_)),
            ) => (Verdict::Broken, 0, 0),
            Err(error) => {
                self.show_once(&format!("{}:{port}: {error}", host.as_str()));
                (Verdict::Broken, 0, 0)
            }
        };
        self.note(&Entry { name: host.as_str().to_owned(), port: Some(port), verdict, sent, received });
    }
}
