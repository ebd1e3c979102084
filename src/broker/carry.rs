//! Carrying bytes between two connections until both directions have ended.
//!
//! A direction that ends is passed on as its end alone (half-close); the other one goes on. How long nothing may move
//! is not bounded: a shell or a database's client may wait for a day. What a guest holds ends with its sandbox.
//!
//! Bytes are copied, in large pieces. Moving them by `splice` was measured and is slower: what it saves in copying it
//! loses in wake-ups, because pages go on in pieces as small as they came, while what is written in one large piece
//! reaches the guest as one segment ([`silo_init::agent`] lets its loopback carry such).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes carried at once at first; most conversations never need more.
const FIRST_BYTES: usize = 16 << 10;
/// The most bytes carried at once: as much as one segment of the guest's loopback holds.
const MOST_BYTES: usize = 512 << 10;

/// Carries both directions to their ends; returns how many bytes went to the world, and how many came from it.
pub async fn both(guest: &mut TcpStream, world: &mut TcpStream) -> io::Result<(u64, u64)> {
    let (from_guest, to_guest) = guest.split();
    let (from_world, to_world) = world.split();
    tokio::try_join!(one_way(from_guest, to_world), one_way(from_world, to_guest))
}

async fn one_way(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<u64> {
    let mut piece = vec![0; FIRST_BYTES];
    let mut carried = 0;
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            to.shutdown().await?;
            return Ok(carried);
        }
        to.write_all(&piece[..length]).await?;
        carried += length as u64;
        if length == piece.len() && length < MOST_BYTES {
            piece = vec![0; (length * 4).min(MOST_BYTES)];
        }
    }
}
