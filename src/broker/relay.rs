//! Carrying bytes between two connections until both directions have ended.
//!
//! A direction that ends is passed on as its end alone (half-close); the other one goes on. A connection on which
//! nothing moves in either direction for [`IDLE`] is given up, so that a guest cannot hold what it does not use.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long nothing may move; servers that compute an answer for longer are rare, and clients give up before.
pub const IDLE: Duration = Duration::from_secs(900);

/// Between two looks at what the other direction did.
const LOOK: Duration = Duration::from_secs(20);

/// Bytes carried at once; more makes no difference on a loopback.
const PIECE_BYTES: usize = 64 << 10;

/// Stack of a thread that only carries bytes; its buffer is on the heap.
pub const STACK_BYTES: usize = 256 << 10;

/// What a guest may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Anything, until it says that it is done.
    All,
    /// So many bytes of a body; whatever follows is not read.
    Bytes(u64),
}

/// Carries both directions to their ends.
pub fn relay(guest: &TcpStream, world: &TcpStream, left: Left) -> std::io::Result<()> {
    for stream in [guest, world] {
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(Some(IDLE))?;
        // Small messages of a conversation must not wait for one another.
        stream.set_nodelay(true)?;
    }
    let moved = Moved { began: Instant::now(), at_ms: AtomicU64::new(0) };
    thread::scope(|scope| {
        let back = || {
            flow(world, guest, Left::All, &moved);
            if left != Left::All {
                // The exchange is over; nobody reads the rest of a body.
                let _ = guest.shutdown(Shutdown::Read);
            }
        };
        thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, back)?;
        flow(guest, world, left, &moved);
        Ok(())
    })
}

/// When anything last moved, in either direction.
struct Moved {
    began: Instant,
    at_ms: AtomicU64,
}

impl Moved {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&self) {
        self.at_ms.store(self.now(), Ordering::Relaxed);
    }

    fn is_long_ago(&self) -> bool {
        u128::from(self.now().saturating_sub(self.at_ms.load(Ordering::Relaxed))) > IDLE.as_millis()
    }
}

/// Carries one direction to its end, and passes the end on; where it breaks, the other one is broken off, too.
fn flow(mut from: &TcpStream, mut to: &TcpStream, mut left: Left, moved: &Moved) {
    let mut piece = vec![0; PIECE_BYTES];
    let whole = loop {
        let most = match left {
            Left::All => piece.len(),
            // The other side knows from the length that this is all; its connection stays open for the answer.
            Left::Bytes(0) => return,
            Left::Bytes(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX).min(piece.len()),
        };
        match from.read(&mut piece[..most]) {
            Ok(0) => break true,
            Ok(length) => {
                moved.note();
                if to.write_all(&piece[..length]).is_err() {
                    break false;
                }
                moved.note();
                if let Left::Bytes(bytes) = &mut left {
                    *bytes -= length as u64;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && !moved.is_long_ago() => {}
            Err(_) => break false,
        }
    };
    // A connection that is gone already needs no shutting down.
    if whole {
        let _ = to.shutdown(Shutdown::Write);
    } else {
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
