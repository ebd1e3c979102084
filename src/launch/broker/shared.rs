//! State that all connections of a broker share: its limits, records and messages.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use silo_base::grant::{Host, Permit};
use silo_wire::id::AgentId;
use tokio::time::Instant;

use super::agent_channel::AgentChannel;
use super::budget::{Budget, ConnectionPermit};
use super::config::BrokerConfig;
use super::connections::Connections;
use super::dial::DialledConnection;
use super::network_log::{Entry, Verdict};
use super::pending::Waiting;

/// The most hosts dialled at a time.
pub const MAX_DIALLING: usize = 512;
/// The most lines shown; a guest can request any number of names.
pub const MAX_LINES: usize = 200;

/// State shared by all connections.
pub struct Shared<C> {
    pub channel: C,
    pub terms: BrokerConfig,
    pub ready: RefCell<HashMap<AgentId, PendingConnection>>,
    pub dialling: Cell<usize>,
    pub answers: Cell<usize>,
    pub is_crowded: Cell<bool>,
    pub turned_away: Cell<u64>,
    pub conversations: Connections,
    pub lines: RefCell<Vec<String>>,
    pub waiting: Waiting,
}

/// Counts one running dial.
pub struct DialPermit<C>(Rc<Shared<C>>);

impl<C> DialPermit<C> {
    /// Counts one more dial.
    pub fn of(hall: &Rc<Shared<C>>) -> DialPermit<C> {
        hall.dialling.set(hall.dialling.get() + 1);
        DialPermit(Rc::clone(hall))
    }
}

impl<C> Drop for DialPermit<C> {
    fn drop(&mut self) {
        self.0.dialling.set(self.0.dialling.get().saturating_sub(1));
    }
}

/// A dialled connection that waits for the guest's side.
pub struct PendingConnection {
    /// `None` if a record answers for the host.
    pub dialled: Option<DialledConnection>,
    pub host: Host,
    pub port: u16,
    pub leave: Permit,
    pub permit: ConnectionPermit,
    pub until: Instant,
}

impl<C: AgentChannel> Shared<C> {
    /// Starts with a channel and the configuration.
    pub fn new(channel: C, terms: BrokerConfig) -> Rc<Shared<C>> {
        let conversations = Connections::new(Budget::new(), terms.max_bytes);
        Rc::new(Shared {
            channel,
            terms,
            ready: RefCell::default(),
            dialling: Cell::default(),
            answers: Cell::default(),
            is_crowded: Cell::default(),
            turned_away: Cell::default(),
            conversations,
            lines: RefCell::default(),
            waiting: Waiting::default(),
        })
    }

    /// Takes a connection from the budget.
    pub fn permit(&self, name: &str, port: u16) -> Option<ConnectionPermit> {
        self.conversations.budget().permit().or_else(|| self.crowded(name, port))
    }

    /// Refuses a connection; records only the first one of a run, since there may be thousands.
    pub fn crowded(&self, name: &str, port: u16) -> Option<ConnectionPermit> {
        if !self.is_crowded.replace(true) {
            let name = Host::parse(name).map_or_else(String::new, |host| host.as_str().to_owned());
            self.note(&Entry { name, port: Some(port), verdict: Verdict::Crowded, sent: 0, received: 0 });
        }
        self.turned_away.set(self.turned_away.get().saturating_add(1));
        None
    }

    /// Reports at the end how many connections were refused.
    pub fn report_refused(&self) {
        let most = self.conversations.budget().most();
        match self.turned_away.get() {
            0 => {}
            1 => self
                .show_once(&format!("1 connection was refused: the limit is {most} open connections, and {MAX_DIALLING} dials at a time")),
            many => self.show_once(&format!(
                "{many} connections were refused: the limit is {most} open connections, and {MAX_DIALLING} dials at a time"
            )),
        }
    }

    /// Records a lookup or a connection.
    pub fn note(&self, entry: &Entry) {
        if let Some(record) = &self.terms.record {
            record.note(entry);
        }
    }

    /// Shows a refusal with the command that would grant it.
    pub fn refuse(&self, what: &str, grant: &str) {
        self.show_once(&format!("{what} is not granted; {}", (self.terms.cure)(grant)));
    }

    /// Shows each line once, up to [`MAX_LINES`].
    pub fn show_once(&self, line: &str) {
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
