//! Non-blocking reads and writes, also on a shared file descriptor.
//!
//! The caller's standard streams are shared with other programs, so `O_NONBLOCK` cannot be set on them: the flag belongs to the open file
//! description, not to the descriptor. Pipes and terminals are opened again instead, which gives a separate open file description. Socket
//! calls take a flag (`MSG_DONTWAIT`). Regular files never block for a reader.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::{Errno, read, write};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::termios::isatty;

use super::system;

/// The size that a writable pipe accepts without blocking (`PIPE_BUF`).
const PIECE_BYTES: usize = 4096;

/// The direction in which a descriptor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

/// A file descriptor and its non-blocking method.
#[derive(Debug)]
pub struct NonBlocking {
    fd: OwnedFd,
    how: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// The open file description is our own and non-blocking, or it is a regular file.
    Own,
    /// A shared socket: each call has the flag.
    Socket,
    /// It could not be opened again. Small pieces are written after a poll; another writer may fill the buffer first, and then a write
    /// blocks.
    Pieces,
}

impl NonBlocking {
    /// Wraps a non-blocking descriptor of our own.
    pub fn own(fd: OwnedFd) -> NonBlocking {
        NonBlocking { fd, how: Method::Own }
    }

    /// Wraps a descriptor that others use as well.
    pub fn shared(fd: BorrowedFd<'_>, way: Direction) -> Result<NonBlocking, Errno> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        let flags = if way == Direction::Read { OFlags::RDONLY } else { OFlags::WRONLY };
        if kind == FileType::Fifo || kind == FileType::CharacterDevice && isatty(fd) {
            // Opening the terminal again fails if it belongs to another user (after su or sudo).
            if let Ok(fd) = system::open_again(fd, flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC) {
                return Ok(NonBlocking { fd, how: Method::Own });
            }
        }
        let how = match kind {
            FileType::Socket => Method::Socket,
            FileType::RegularFile => Method::Own,
            _ => Method::Pieces,
        };
        Ok(NonBlocking { fd: rustix::io::fcntl_dupfd_cloexec(fd, 3)?, how })
    }

    /// Reads; `EAGAIN` if no data is available.
    pub fn read(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        match self.how {
            Method::Socket => recv(&self.fd, bytes, RecvFlags::DONTWAIT).map(|(length, _)| length),
            Method::Own | Method::Pieces => read(&self.fd, bytes),
        }
    }

    /// Writes; `EAGAIN` if the buffer is full.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.how {
            Method::Own => write(&self.fd, bytes),
            Method::Socket => send(&self.fd, bytes, system::SENDING | SendFlags::DONTWAIT),
            Method::Pieces => write(&self.fd, &bytes[..bytes.len().min(PIECE_BYTES)]),
        }
    }
}

impl AsFd for NonBlocking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::SocketType;
    use rustix::pipe::pipe;

    use super::*;

    /// Writes until the buffer is full; a blocking call would never return.
    fn fill(fd: BorrowedFd<'_>) -> usize {
        let shared = NonBlocking::shared(fd, Direction::Write).expect("taken");
        let mut taken = 0;
        loop {
            match shared.write(&[b'x'; 100_000]) {
                Ok(length) => taken += length,
                Err(error) => {
                    assert_eq!(error, Errno::AGAIN);
                    return taken;
                }
            }
        }
    }

    #[test]
    fn an_unread_shared_descriptor_does_not_block() {
        let (reader, writer) = pipe().expect("a pipe");
        assert!(fill(writer.as_fd()) >= 4096);
        assert!(!rustix::fs::fcntl_getfl(&writer).expect("told").contains(OFlags::NONBLOCK), "the others wait as before");
        let (ours, theirs) = system::pair(SocketType::STREAM).expect("a pair");
        assert!(fill(ours.as_fd()) >= 4096);
        let empty = NonBlocking::shared(ours.as_fd(), Direction::Read).expect("taken");
        assert_eq!(empty.read(&mut [0; 8]), Err(Errno::AGAIN));
        let full = NonBlocking::shared(reader.as_fd(), Direction::Read).expect("taken");
        assert_eq!(full.read(&mut [0; 8]), Ok(8));
        drop(theirs);
    }
}
