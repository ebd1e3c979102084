//! Port forwards: ports of this machine, connected to ports in the sandbox.
//!
//! Each listens on this machine's loopback, so other machines cannot connect. The agent inside connects to the port on either loopback
//! address. A port forward is for incoming connections only; it grants no network access.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use silo_wire::{Family, ToAgent};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::agent_channel::AgentChannel;
use super::budget::ConnectionPermit;
use super::config::PortForward;
use super::copy;
use super::network_log::{Entry, Verdict};
use super::shared::Shared;

/// Timeout of a connect inside; the kernel answers immediately unless the server's accept queue is full.
const PATIENCE: Duration = Duration::from_secs(30);
/// Delay after EMFILE on accept.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Serves a port forward until the sandbox ends.
pub async fn serve<C: AgentChannel>(hall: Rc<Shared<C>>, door: PortForward) -> io::Result<()> {
    door.listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(door.listener)?;
    loop {
        let Ok((outside, _)) = listener.accept().await else {
            tokio::time::sleep(EXHAUSTED).await;
            continue;
        };
        let Some(permit) = hall.permit("localhost", door.inside) else {
            // The kernel already accepted the connection; a reset is the closest to a refusal.
            let _ = outside.set_zero_linger();
            continue;
        };
        hall.conversations.open();
        let hall = Rc::clone(&hall);
        tokio::task::spawn_local(async move {
            accept_connection(&hall, outside, door.inside, &permit).await;
            hall.conversations.close();
            drop(permit);
        });
    }
}

async fn accept_connection<C: AgentChannel>(hall: &Rc<Shared<C>>, mut outside: TcpStream, port: u16, permit: &ConnectionPermit) {
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
                // Disable Nagle's algorithm: small messages must not wait for an ACK.
                let _ = stream.set_nodelay(true);
            }
            match copy::both(&mut inside, &mut outside, &hall.conversations, copy::Counted::No).await {
                Ok((sent, received)) => (entry.sent, entry.received) = (sent, received),
                Err(_) => entry.verdict = Verdict::Broken,
            }
        }
        None => {
            // The kernel already accepted the connection; a reset is the closest to a refusal.
            let _ = outside.set_zero_linger();
            entry.verdict = Verdict::Refused;
        }
    }
    hall.note(&entry);
}

async fn enter<C: AgentChannel>(hall: &Rc<Shared<C>>, family: Family, port: u16) -> Option<TcpStream> {
    let (id, receiver, _forget) = hall.waiting.begin();
    hall.channel.answer(&ToAgent::Enter { id, family, port }).await.ok()?;
    let inside = receiver.await.ok()??;
    inside.writable().await.ok()?;
    inside.take_error().is_ok_and(|error| error.is_none()).then_some(inside)
}
