//! Copies bytes between two connections until both directions have ended.
//!
//! At the end of one direction only that direction is shut down (half-close); the other one continues. There is no idle timeout: a shell or
//! a database client may wait for a day. After the sandbox ends, its outgoing data is drained, and incoming data is dropped
//! ([`Conversations`]).
//!
//! The copy goes through large buffers in user space. `splice` was measured and is slower: it saves the copy, but passes pages on in pieces
//! as small as they came, which costs more wake-ups. One large write reaches the guest as one segment, because [`silo_init::agent`] raises
//! the segment size of its loopback.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;

use super::budget::{Budget, Loan};
use super::connections::Connections;

/// Bytes of the buffer that each direction owns; most connections never need more.
const OWN_BYTES: usize = 4 << 10;
/// The most bytes of one copy: the size of a segment on the guest's loopback.
const MOST_BYTES: usize = 512 << 10;

/// Whether the bytes of a connection count for the limit of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// They count.
    Yes,
    /// They do not: a port forward stays on this machine.
    No,
}

/// Copies both directions until they end; returns the bytes sent and received.
pub async fn both(guest: &mut TcpStream, world: &mut TcpStream, among: &Connections, counted: Counted) -> io::Result<(u64, u64)> {
    let count = |bytes| {
        if counted == Counted::Yes {
            among.count(bytes);
        }
    };
    let (from_guest, mut to_guest) = guest.split();
    let (from_world, mut to_world) = world.split();
    let (sent, received) = (Cell::new(0), Cell::new(0));
    let budget = among.budget();
    let leading_out = async {
        one_way(from_guest, &mut to_world, budget, |bytes| {
            sent.set(sent.get() + bytes);
            among.note(bytes);
            count(bytes);
        })
        .await?;
        to_world.shutdown().await
    };
    let leading_in = async {
        one_way(from_world, &mut to_guest, budget, |bytes| {
            received.set(received.get() + bytes);
            count(bytes);
        })
        .await?;
        to_guest.shutdown().await
    };
    tokio::try_join!(leading_out, among.while_it_lives(leading_in))?;
    Ok((sent.get(), received.get()))
}

/// Copies one direction until it ends; does not shut down the writer. Calls `note` with the bytes of each write.
///
/// Reads nothing before the last piece is written, so a slow reader slows its writer.
pub async fn one_way(mut from: impl AsyncRead + Unpin, to: &mut WriteHalf<'_>, budget: &Budget, note: impl Fn(u64)) -> io::Result<()> {
    let mut own = vec![0; OWN_BYTES];
    let mut lent: Option<(Loan<'_>, Vec<u8>)> = None;
    loop {
        let piece = lent.as_mut().map_or(&mut own, |(_, piece)| piece);
        let length = {
            let mut reading = pin!(from.read(piece));
            match poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
                Poll::Ready(read) => Some(read?),
                // Nothing to read yet. Keeps the large buffer during the wait only while the pool has enough.
                Poll::Pending if budget.is_short() => None,
                Poll::Pending => Some(reading.await?),
            }
        };
        let length = match length {
            Some(length) => length,
            None => {
                lent = None;
                from.read(&mut own).await?
            }
        };
        let piece = lent.as_ref().map_or(&own, |(_, piece)| piece);
        if length == 0 {
            return Ok(());
        }
        let mut rest = &piece[..length];
        while !rest.is_empty() {
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            note(written as u64);
            rest = &rest[written..];
        }
        if length == piece.len() && length < MOST_BYTES {
            let size = (length * 4).min(MOST_BYTES);
            lent = budget.lend(size).map(|loan| (loan, vec![0; size])).or(lent);
        }
    }
}
