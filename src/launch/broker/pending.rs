//! Connections into the sandbox that its agent was asked to open.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use silo_wire::id::BrokerId;
use tokio::net::TcpStream;
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// Connections that the agent was asked to open.
#[derive(Default)]
pub struct Waiting {
    last: Cell<BrokerId>,
    senders: RefCell<HashMap<BrokerId, Sender<Option<TcpStream>>>>,
}

impl Waiting {
    /// Starts to wait for a connection under a new id, until the returned guard is dropped.
    pub fn begin(&self) -> (BrokerId, Receiver<Option<TcpStream>>, Forget<'_>) {
        let id = self.last.get().next();
        self.last.set(id);
        let (sender, receiver) = channel();
        self.senders.borrow_mut().insert(id, sender);
        (id, receiver, Forget { waiting: self, id })
    }

    /// Passes a connection from the agent to its waiter; drops it if there is none.
    pub fn complete(&self, id: BrokerId, connection: Option<TcpStream>) {
        if let Some(sender) = self.senders.borrow_mut().remove(&id) {
            // The waiter may be gone.
            let _ = sender.send(connection);
        }
    }

    /// Drops all pending connections.
    pub fn end(&self) {
        self.senders.borrow_mut().clear();
    }
}

/// Removes a waiter when dropped, also after a timeout.
pub struct Forget<'a> {
    waiting: &'a Waiting,
    id: BrokerId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.senders.borrow_mut().remove(&self.id);
    }
}
