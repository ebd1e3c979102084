//! The conversations of a sandbox, and what becomes of them when it ends.
//!
//! What a program wrote arrives, though the program has ended meanwhile: outside, the kernel sees to that, and here it
//! still holds the sandbox's side of each connection. So what leads out is carried to its end, which is near: nobody is
//! left to write more. What leads in ends at once: nobody is left to read it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::budget::Budget;

/// How long nothing may move of what a sandbox that has ended wrote: whoever outside takes nothing for so long keeps the
/// user's prompt no longer.
const STALLED: Duration = Duration::from_millis(500);
/// The most such spans altogether. Bytes are bounded by what the kernel holds of the sandbox's connections.
const MOST_SPANS: usize = 10;

/// The conversations.
pub struct Conversations {
    budget: Rc<Budget>,
    open: Cell<usize>,
    carried: Cell<u64>,
    has_ended: Cell<bool>,
    ended: Notify,
    closed: Notify,
}

impl Conversations {
    /// Makes none, with the sandbox's budget.
    pub fn new(budget: Rc<Budget>) -> Conversations {
        Conversations {
            budget,
            open: Cell::default(),
            carried: Cell::default(),
            has_ended: Cell::default(),
            ended: Notify::new(),
            closed: Notify::new(),
        }
    }

    /// Returns the budget that all of them share.
    pub fn budget(&self) -> &Rc<Budget> {
        &self.budget
    }

    /// One begins.
    pub fn open(&self) {
        self.open.set(self.open.get() + 1);
    }

    /// One is over.
    pub fn close(&self) {
        self.open.set(self.open.get() - 1);
        self.closed.notify_waiters();
    }

    /// Something was carried out.
    pub fn note(&self, bytes: u64) {
        self.carried.set(self.carried.get() + bytes);
    }

    /// Carries in what comes, as long as the sandbox lives: to write to a connection that nobody reads would break it off.
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

    /// The sandbox has ended: waits as long as something is carried out.
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
