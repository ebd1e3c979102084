//! The broker: a sandbox's only access to the network, by name.
//!
//! A sandbox has only a loopback interface. The agent on it asks the broker, outside, which names and ports are allowed, and asks it to
//! connect ([`silo_wire`] has the messages). The broker checks the *name*, resolves it, checks the address, connects, and copies bytes. So
//! even root in the guest reaches only granted hosts.
//!
//! **Invariant.** Only [`silo_wire`] parses messages from the guest. [`hello`] parses the TLS ClientHello on port 443, and [`request`] the
//! HTTP head for the upstream proxy. Size and time are bounded, and one budget ([`budget`]) covers all resources that the guest makes the
//! broker hold.
//!
//! A granted name is no proof of the service behind it: a server with many names may answer, inside the encrypted connection, for any of
//! them.

mod budget;
pub mod hello;
mod own;
pub mod proxies;
pub mod record;
pub mod request;

mod conversations;

mod carry;
mod dial;

mod relay;

mod doors;
mod keys;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use silo_wire::{Answer, Ask, Id, Outcome};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::Instant;

use silo_base::grant::{Cover, Host, Leave, MACHINE, Policy, that_covers};

use budget::{Budget, Permit};
use conversations::Conversations;
use dial::Dialled;
pub use doors::Door;
pub use keys::{Asking, Keys};
use proxies::Proxies;
use record::{Entry, Record, Verdict};
use relay::Place;

/// The most hosts dialled at a time.
const MAX_DIALLING: usize = 512;
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
/// How long the channel is read after the sandbox ended; its last messages arrive just before its end.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The most lines shown; a guest can request any number of names.
pub const MAX_LINES: usize = 200;

/// Takes a line, from any thread.
pub type Say = Box<dyn Fn(&str) + Send + Sync>;

/// The broker's configuration: the grants of a sandbox, and the receivers of its reports.
pub struct Terms {
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
    /// Port forwards into the sandbox.
    pub doors: Vec<Door>,
    /// Access to the user's ssh agent.
    pub keys: Option<Keys>,
}

/// The ports that are open while a run learns: those of git and of package clients.
const LEARNING: [(u16, u16); 3] = [(22, 22), (80, 80), (443, 443)];

impl Terms {
    fn judge(&self, host: &Host, port: u16) -> Option<Leave> {
        let learning = || {
            let open = self.is_learning(host) && LEARNING.iter().any(|(from, to)| (*from..=*to).contains(&port));
            open.then_some(Leave { cover: Cover::Family, raw: false })
        };
        self.policy.judge(host, port).or_else(learning)
    }

    fn ranges(&self, host: &Host) -> Vec<(u16, u16)> {
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

/// The channel to a sandbox's agent.
pub trait Carrier: 'static {
    /// Receives a message, with its connection if it has one; `None` at the end. Skips malformed messages.
    fn next(&self) -> impl Future<Output = io::Result<Option<(Ask, Option<TcpStream>)>>>;

    /// Sends an answer.
    fn answer(&self, answer: &Answer) -> impl Future<Output = io::Result<()>>;
}

/// Serves the agent until its sandbox has ended and its outgoing data is drained.
///
/// `open` runs inside the async runtime; it returns the channel, and a future that resolves when the sandbox ends.
pub fn serve<C: Carrier, E: Future<Output = ()>>(open: impl FnOnce() -> io::Result<(C, E)>, mut terms: Terms) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_LOOKUPS)
        .thread_stack_size(LOOKUP_STACK_BYTES)
        .build()?;
    let set = LocalSet::new();
    let served = set.block_on(&runtime, async {
        let (doors, keys) = (std::mem::take(&mut terms.doors), terms.keys.take());
        let (channel, ended) = open()?;
        let hall = Hall::new(channel, terms);
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
        hall.tell_refused();
        Ok(())
    });
    drop(set);
    // A thread in a DNS lookup cannot be interrupted, so do not wait for it.
    runtime.shutdown_background();
    served
}

/// State shared by all connections.
struct Hall<C> {
    channel: C,
    terms: Terms,
    ready: RefCell<HashMap<Id, Ready>>,
    dialling: Cell<usize>,
    answers: Cell<usize>,
    is_crowded: Cell<bool>,
    turned_away: Cell<u64>,
    conversations: Conversations,
    lines: RefCell<Vec<String>>,
    waiting: doors::Waiting,
}

/// Counts one running dial.
struct Dialling<C>(Rc<Hall<C>>);

impl<C> Dialling<C> {
    fn of(hall: &Rc<Hall<C>>) -> Dialling<C> {
        hall.dialling.set(hall.dialling.get() + 1);
        Dialling(Rc::clone(hall))
    }
}

impl<C> Drop for Dialling<C> {
    fn drop(&mut self) {
        self.0.dialling.set(self.0.dialling.get().saturating_sub(1));
    }
}

/// A dialled connection that waits for the guest's side.
struct Ready {
    dialled: Dialled,
    host: Host,
    port: u16,
    leave: Leave,
    permit: Permit,
    until: Instant,
}

impl<C: Carrier> Hall<C> {
    fn new(channel: C, terms: Terms) -> Rc<Hall<C>> {
        Rc::new(Hall {
            channel,
            terms,
            ready: RefCell::default(),
            dialling: Cell::default(),
            answers: Cell::default(),
            is_crowded: Cell::default(),
            turned_away: Cell::default(),
            conversations: Conversations::new(Budget::new()),
            lines: RefCell::default(),
            waiting: doors::Waiting::default(),
        })
    }

    async fn serve(self: Rc<Hall<C>>, doors: Vec<Door>, keys: Option<Keys>) -> io::Result<()> {
        for door in doors {
            let (hall, port) = (Rc::clone(&self), door.inside);
            tokio::task::spawn_local(async move {
                if let Err(error) = doors::serve(Rc::clone(&hall), door).await {
                    hall.tell(&format!("the port forward to port {port} in the sandbox failed: {error}"));
                }
            });
        }
        if let Some(keys) = keys {
            let hall = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                if let Err(error) = keys::serve(Rc::clone(&hall), keys).await {
                    hall.tell(&format!("forwarding the ssh agent failed: {error}"));
                }
            });
        }
        tokio::task::spawn_local(Rc::clone(&self).sweep());
        while let Some((ask, connection)) = self.channel.next().await? {
            let hall = Rc::clone(&self);
            match (ask, connection) {
                (Ask::Lookup { id, name }, _) => self.answer(Answer::Ports { id, ranges: self.lookup(&name) }),
                (Ask::Connect { id, name, port }, _) => {
                    let permit = if self.dialling.get() < MAX_DIALLING { self.permit(&name, port) } else { self.crowded(&name, port) };
                    let Some(permit) = permit else {
                        self.answer(Answer::Outcome { id, outcome: Outcome::Refused });
                        continue;
                    };
                    let dialling = Dialling::of(&self);
                    tokio::task::spawn_local(async move {
                        let outcome = hall.connect(id, &name, port, permit).await;
                        drop(dialling);
                        // The agent may be gone; then no one needs the answer.
                        let _ = hall.channel.answer(&Answer::Outcome { id, outcome }).await;
                    });
                }
                (Ask::Accepted { id }, Some(guest)) => {
                    let Some(ready) = self.ready.borrow_mut().remove(&id) else { continue };
                    self.conversations.open();
                    tokio::task::spawn_local(async move {
                        hall.converse(guest, ready).await;
                        hall.conversations.close();
                    });
                }
                (Ask::Accepted { .. }, None) => {}
                (Ask::Entered { id }, connection) => self.waiting.settle(id, connection),
                (Ask::Nobody { id }, _) => self.waiting.settle(id, None),
            }
        }
        Ok(())
    }

    /// Takes a connection from the budget.
    fn permit(&self, name: &str, port: u16) -> Option<Permit> {
        self.conversations.budget().permit().or_else(|| self.crowded(name, port))
    }

    /// Refuses a connection; records only the first one of a run, since there may be thousands.
    fn crowded(&self, name: &str, port: u16) -> Option<Permit> {
        if !self.is_crowded.replace(true) {
            let name = Host::parse(name).map_or_else(String::new, |host| host.as_str().to_owned());
            self.note(&Entry { name, port: Some(port), verdict: Verdict::Crowded, sent: 0, received: 0 });
        }
        self.turned_away.set(self.turned_away.get().saturating_add(1));
        None
    }

    /// Reports at the end how many connections were refused.
    fn tell_refused(&self) {
        let most = self.conversations.budget().most();
        match self.turned_away.get() {
            0 => {}
            1 => self.tell(&format!("1 connection was refused: the limit is {most} open connections, and {MAX_DIALLING} dials at a time")),
            many => self.tell(&format!(
                "{many} connections were refused: the limit is {most} open connections, and {MAX_DIALLING} dials at a time"
            )),
        }
    }

    /// Drops connections that the agent never claimed.
    async fn sweep(self: Rc<Hall<C>>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = Instant::now();
            self.ready.borrow_mut().retain(|_, ready| ready.until > now);
        }
    }

    /// Sends an answer without waiting: an agent that does not read must not block the broker.
    fn answer(self: &Rc<Hall<C>>, answer: Answer) {
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

    fn lookup(&self, name: &str) -> Vec<(u16, u16)> {
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

    async fn connect(&self, id: Id, name: &str, port: u16, permit: Permit) -> Outcome {
        let Some(host) = Host::parse(name) else { return Outcome::Denied };
        let name = host.as_str().to_owned();
        let outcome = self.reach(id, host, port, permit).await;
        if let Some(verdict) = Verdict::of(outcome) {
            self.note(&Entry { name, port: Some(port), verdict, sent: 0, received: 0 });
        }
        outcome
    }

    async fn reach(&self, id: Id, host: Host, port: u16, permit: Permit) -> Outcome {
        let place = format!("{}:{port}", host.as_str());
        let Some(leave) = self.terms.judge(&host, port) else {
            self.refuse(&place, &that_covers(&host, port));
            return Outcome::Denied;
        };
        match dial::dial(&host, port, leave.cover, &self.terms.policy, &self.terms.proxies).await {
            Ok(dialled) => {
                if let Some(learned) = &self.terms.learned {
                    learned(&place);
                }
                let until = Instant::now() + PATIENCE;
                self.ready.borrow_mut().insert(id, Ready { dialled, host, port, leave, permit, until });
                Outcome::Open
            }
            Err(error) => {
                self.tell(&format!("{place}: {error}"));
                error.outcome()
            }
        }
    }

    async fn converse(&self, guest: TcpStream, ready: Ready) {
        let Ready { dialled, host, port, leave, permit, until: _ } = ready;
        permit.fit([&guest, &dialled.stream]);
        let place = Place { host: &host, port, raw: leave.raw };
        let (verdict, sent, received) = match relay::relay(guest, dialled, place, &self.conversations).await {
            Ok((sent, received)) => (Verdict::Reached, sent, received),
            // A broken connection needs no message; both sides have seen it.
            Err(relay::Error::Io(_)) => (Verdict::Broken, 0, 0),
            Err(error) => {
                self.tell(&format!("{}:{port}: {error}", host.as_str()));
                (Verdict::Broken, 0, 0)
            }
        };
        self.note(&Entry { name: host.as_str().to_owned(), port: Some(port), verdict, sent, received });
    }

    fn note(&self, entry: &Entry) {
        if let Some(record) = &self.terms.record {
            record.note(entry);
        }
    }

    fn refuse(&self, what: &str, grant: &str) {
        self.tell(&format!("{what} is not granted; {}", (self.terms.cure)(grant)));
    }

    /// Shows each line once, up to [`MAX_LINES`].
    fn tell(&self, line: &str) {
        let mut lines = self.lines.borrow_mut();
        if lines.len() > MAX_LINES || lines.iter().any(|told| told == line) {
            return;
        }
        lines.push(line.to_owned());
        if lines.len() > MAX_LINES {
            (self.terms.tell)("further refusals are not shown");
        } else {
            (self.terms.tell)(line);
        }
    }
}
