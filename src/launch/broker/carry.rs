//! Carrying bytes between two connections until both directions have ended.
//!
//! A direction that ends is passed on as its end alone (half-close); the other one goes on. How long nothing may move
//! is not bounded: a shell or a database's client may wait for a day. When the sandbox has ended, what it wrote before is
//! still carried out, and nothing is carried in any more ([`Conversations`]).
//!
//! Bytes are copied, in large pieces. Moving them by `splice` was measured and is slower: what it saves in copying it
//! loses in wake-ups, because pages go on in pieces as small as they came, while what is written in one large piece
//! reaches the guest as one segment ([`silo_init::agent`] lets its loopback carry such).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;

use super::budget::{Budget, Loan};
use super::conversations::Conversations;

/// Bytes of a direction's own buffer, which most conversations never need more than.
const OWN_BYTES: usize = 4 << 10;
/// The most bytes carried at once: as much as one segment of the guest's loopback holds.
const MOST_BYTES: usize = 512 << 10;

/// Carries both directions to their ends; returns how many bytes went to the world, and how many came from it.
pub async fn both(guest: &mut TcpStream, world: &mut TcpStream, among: &Conversations) -> io::Result<(u64, u64)> {
    let (from_guest, mut to_guest) = guest.split();
    let (from_world, mut to_world) = world.split();
    let (sent, received) = (Cell::new(0), Cell::new(0));
    let budget = among.budget();
    let leading_out = async {
        one_way(from_guest, &mut to_world, budget, |bytes| {
            sent.set(sent.get() + bytes);
            among.note(bytes);
        })
        .await?;
        to_world.shutdown().await
    };
    let leading_in = async {
        one_way(from_world, &mut to_guest, budget, |bytes| received.set(received.get() + bytes)).await?;
        to_guest.shutdown().await
    };
    tokio::try_join!(leading_out, among.while_it_lives(leading_in))?;
    Ok((sent.get(), received.get()))
}

/// Carries one direction to its end, which is not passed on; tells how many bytes went at once.
///
/// Nothing is read before what was read is written: a reader that is slow slows its writer.
pub async fn one_way(mut from: impl AsyncRead + Unpin, to: &mut WriteHalf<'_>, budget: &Budget, note: impl Fn(u64)) -> io::Result<()> {
    let mut own = vec![0; OWN_BYTES];
    let mut lent: Option<(Loan<'_>, Vec<u8>)> = None;
    loop {
        let piece = lent.as_mut().map_or(&mut own, |(_, piece)| piece);
        let length = {
            let mut reading = pin!(from.read(piece));
            match poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await {
                Poll::Ready(read) => Some(read?),
                // Nothing is there yet. A large buffer is kept meanwhile only while there are enough.
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
