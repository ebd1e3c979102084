//! Ports of this machine that lead to ports inside.
//!
//! A door listens on this machine's own loopback, so nobody else's machine can come in by it. It leads in and not out:
//! the agent connects inside, to whatever listens there on either loopback address, and nothing is granted by it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use silo_wire::{Answer, Family, Id};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot::{Sender, channel};
use tokio::time::timeout;

use super::budget::Permit;
use super::carry;
use super::record::{Entry, Verdict};
use super::{Carrier, Hall};

/// How long the way in may take; the kernel inside answers at once, unless what listens there does not accept.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait when this process has no descriptor left for who knocks.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A port of this machine that leads to a port inside.
pub struct Door {
    /// What listens on this machine.
    pub listener: std::net::TcpListener,
    /// The port inside.
    pub inside: u16,
}

/// Who waits for a connection inside.
#[derive(Default)]
pub struct Waiting {
    last: Cell<Id>,
    senders: RefCell<HashMap<Id, Sender<Option<TcpStream>>>>,
}

impl Waiting {
    /// Hands over what the agent brought; what nobody waits for is dropped.
    pub fn settle(&self, id: Id, connection: Option<TcpStream>) {
        if let Some(sender) = self.senders.borrow_mut().remove(&id) {
            // Whoever waited may have gone.
            let _ = sender.send(connection);
        }
    }

    /// Nobody is brought any more.
    pub fn end(&self) {
        self.senders.borrow_mut().clear();
    }
}

/// Serves a door as long as the sandbox lives.
pub async fn serve<C: Carrier>(hall: Rc<Hall<C>>, door: Door) -> io::Result<()> {
    door.listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(door.listener)?;
    loop {
        let Ok((outside, _)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        let Some(permit) = hall.permit("localhost", door.inside) else {
            // It was accepted before this was known; a reset says it as well as can be said now.
            let _ = outside.set_zero_linger();
            continue;
        };
        hall.conversations.open();
        let hall = Rc::clone(&hall);
        tokio::task::spawn_local(async move {
            let_in(&hall, outside, door.inside, &permit).await;
            hall.conversations.close();
            drop(permit);
        });
    }
}

async fn let_in<C: Carrier>(hall: &Rc<Hall<C>>, mut outside: TcpStream, port: u16, permit: &Permit) {
    let mut entry = Entry { name: "localhost".to_owned(), port: Some(port), verdict: Verdict::Entered, sent: 0, received: 0 };
    let way = async {
        match enter(hall, Family::V4, port).await {
            Some(inside) => Some(inside),
            None => enter(hall, Family::V6, port).await,
        }
    };
    match timeout(PATIENCE, way).await.ok().flatten() {
        Some(mut inside) => {
            permit.fit([&outside, &inside]);
            for stream in [&outside, &inside] {
                // Small messages of a conversation must not wait for one another.
                let _ = stream.set_nodelay(true);
            }
            match carry::both(&mut inside, &mut outside, &hall.conversations).await {
                Ok((sent, received)) => (entry.sent, entry.received) = (sent, received),
                Err(_) => entry.verdict = Verdict::Broken,
            }
        }
        None => {
            // It was accepted before this was known; a reset says it as well as can be said now.
            let _ = outside.set_zero_linger();
            entry.verdict = Verdict::Refused;
        }
    }
    hall.note(&entry);
}

async fn enter<C: Carrier>(hall: &Rc<Hall<C>>, family: Family, port: u16) -> Option<TcpStream> {
    let id = hall.waiting.last.get().wrapping_add(1);
    hall.waiting.last.set(id);
    let (sender, receiver) = channel();
    hall.waiting.senders.borrow_mut().insert(id, sender);
    let _forget = Forget { waiting: &hall.waiting, id };
    hall.channel.answer(&Answer::Enter { id, family, port }).await.ok()?;
    let inside = receiver.await.ok()??;
    inside.writable().await.ok()?;
    inside.take_error().is_ok_and(|error| error.is_none()).then_some(inside)
}

/// Forgets who waits, also when the wait is given up.
struct Forget<'a> {
    waiting: &'a Waiting,
    id: Id,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.waiting.senders.borrow_mut().remove(&self.id);
    }
}
