//! A descriptor that is read and written without ever waiting, also where it is somebody else's.
//!
//! The caller's standard streams are shared with other programs, so the flag that says not to wait cannot be set on them:
//! it belongs to the open file, not to the descriptor. Pipes and terminals are opened once more instead, which gives an
//! open file of our own. For sockets each call says that it does not wait. Files never make anybody wait for a reader.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::{Errno, read, write};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::termios::isatty;

use super::system;

/// What can be written to a pipe without waiting, once it has room at all (`PIPE_BUF`).
const PIECE_BYTES: usize = 4096;

/// Which way a descriptor is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is read.
    Read,
    /// It is written.
    Write,
}

/// A descriptor, and how it is kept from waiting.
#[derive(Debug)]
pub struct NoWait {
    fd: OwnedFd,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// The open file is our own and does not wait, or it is a file.
    Own,
    /// A socket of somebody else's: each call says so.
    Socket,
    /// It could not be opened once more. Small pieces are written when it has room; another writer may be faster.
    Pieces,
}

impl NoWait {
    /// Takes a descriptor of our own that does not wait.
    pub fn own(fd: OwnedFd) -> NoWait {
        NoWait { fd, how: How::Own }
    }

    /// Takes a descriptor that others use as well.
    pub fn shared(fd: BorrowedFd<'_>, way: Way) -> Result<NoWait, Errno> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        let flags = if way == Way::Read { OFlags::RDONLY } else { OFlags::WRONLY };
        if kind == FileType::Fifo || kind == FileType::CharacterDevice && isatty(fd) {
            // Who started silo by another user's name may not open the terminal anew.
            if let Ok(fd) = system::open_again(fd, flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC) {
                return Ok(NoWait { fd, how: How::Own });
            }
        }
        let how = match kind {
            FileType::Socket => How::Socket,
            FileType::RegularFile => How::Own,
            _ => How::Pieces,
        };
        Ok(NoWait { fd: rustix::io::fcntl_dupfd_cloexec(fd, 3)?, how })
    }

    /// Reads; `EAGAIN` where nothing is there.
    pub fn read(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        match self.how {
            How::Socket => recv(&self.fd, bytes, RecvFlags::DONTWAIT).map(|(length, _)| length),
            How::Own | How::Pieces => read(&self.fd, bytes),
        }
    }

    /// Writes; `EAGAIN` where there is no room.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self.how {
            How::Own => write(&self.fd, bytes),
            How::Socket => send(&self.fd, bytes, system::SENDING | SendFlags::DONTWAIT),
            How::Pieces => write(&self.fd, &bytes[..bytes.len().min(PIECE_BYTES)]),
        }
    }
}

impl AsFd for NoWait {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::SocketType;
    use rustix::pipe::pipe;

    use super::*;

    /// Writes until there is no room; a call that waits would never come back.
    fn fill(fd: BorrowedFd<'_>) -> usize {
        let shared = NoWait::shared(fd, Way::Write).expect("taken");
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
    fn a_shared_descriptor_that_nobody_reads_holds_nobody_up() {
        let (reader, writer) = pipe().expect("a pipe");
        assert!(fill(writer.as_fd()) >= 4096);
        assert!(!rustix::fs::fcntl_getfl(&writer).expect("told").contains(OFlags::NONBLOCK), "the others wait as before");
        let (ours, theirs) = system::pair(SocketType::STREAM).expect("a pair");
        assert!(fill(ours.as_fd()) >= 4096);
        let empty = NoWait::shared(ours.as_fd(), Way::Read).expect("taken");
        assert_eq!(empty.read(&mut [0; 8]), Err(Errno::AGAIN));
        let full = NoWait::shared(reader.as_fd(), Way::Read).expect("taken");
        assert_eq!(full.read(&mut [0; 8]), Ok(8));
        drop(theirs);
    }
}
