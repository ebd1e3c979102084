//! Open connections of a sandbox, and their end when the sandbox ends.
//!
//! Data that a program wrote before it exited must arrive. Outside a sandbox the kernel takes care of that; here the broker still holds the
//! sandbox's side of each connection. So outgoing data is drained: no more can follow. Incoming data is dropped at the end of the sandbox,
//! because no program is left to read it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::budget::Budget;

/// Stops the drain after no outgoing byte moved for this long: a peer that stops reading must not delay the user's prompt.
const STALLED: Duration = Duration::from_millis(500);
/// The most such spans in all. The kernel's socket buffers bound the bytes.
const MOST_SPANS: usize = 10;

/// The open connections, and the signals that one closed or that the sandbox ended.
pub struct Connections {
    budget: Rc<Budget>,
    open: Cell<usize>,
    carried: Cell<u64>,
    /// The most bytes of connections to hosts, and their number.
    max_bytes: Option<u64>,
    counted: Cell<u64>,
    exceeded: Notify,
    has_ended: Cell<bool>,
    ended: Notify,
    closed: Notify,
}

impl Connections {
    /// Creates an empty set with the sandbox's budget, and its limit of bytes.
    pub fn new(budget: Rc<Budget>, max_bytes: Option<u64>) -> Connections {
        Connections {
            budget,
            open: Cell::default(),
            carried: Cell::default(),
            max_bytes,
            counted: Cell::default(),
            exceeded: Notify::new(),
            has_ended: Cell::default(),
            ended: Notify::new(),
            closed: Notify::new(),
        }
    }

    /// Returns the budget that all connections share.
    pub fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }

    /// Counts a new connection.
    pub fn open(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// Counts a closed connection.
    pub fn close(&self) {
        self.open.set(self.open.get() - 1);
        self.closed.notify_waiters();
    }

    /// Adds sent bytes to the drain's progress.
    pub fn note(&self, bytes: u64) {
        self.carried.set(self.carried.get() + bytes);
    }

    /// Counts bytes of a connection to a host, in both directions.
    pub fn count(&self, bytes: u64) {
        self.counted.set(self.counted.get().saturating_add(bytes));
        if self.is_exceeded() {
            self.exceeded.notify_waiters();
        }
    }

    /// True if the limit of bytes is reached.
    pub fn is_exceeded(&self) -> bool {
        self.max_bytes.is_some_and(|most| self.counted.get() >= most)
    }

    /// Waits until the limit of bytes is reached.
    pub async fn exceeded(&self) {
        let exceeded = self.exceeded.notified();
        if !self.is_exceeded() {
            exceeded.await;
        }
    }

    /// Copies incoming data until the sandbox ends; a write to a connection without a reader would reset it.
    pub async fn while_it_lives<T: Default>(&self, carried: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let ended = self.ended.notified();
        if self.has_ended.get() {
            return Ok(T::default());
        }
        tokio::select! {
            done = carried => done,
            () = ended => Ok(T::default()),
        }
    }

    /// Marks the sandbox as ended and waits while outgoing data still moves.
    pub async fn finish(&self) {
        self.has_ended.set(true);
        self.ended.notify_waiters();
        let all = async {
            while self.open.get() > 0 {
                self.closed.notified().await;
            }
        };
        tokio::select! {
            () = all => {}
            () = self.stalled() => {}
        }
    }

    async fn stalled(&self) {
        for _ in 0..MOST_SPANS {
            let before = self.carried.get();
            sleep(STALLED).await;
            if self.carried.get() == before {
                return;
            }
        }
    }
}
