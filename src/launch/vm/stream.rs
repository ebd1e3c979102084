//! One end of one stream of a link: what it is connected to, which ways it goes, and how much is under way.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::io::{Errno, read, write};
use silo_wire::frame::{Frame, MAX_PAYLOAD_BYTES, WINDOW_BYTES};

/// Taken bytes that are worth telling.
const CREDIT_BYTES: usize = WINDOW_BYTES / 4;
/// What can be written to somebody else's pipe without waiting, once it has room at all (`PIPE_BUF`).
const SHARED_PIECE_BYTES: usize = 4096;

/// What is at the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A pipe or file that others use, too, and that may not be told not to wait.
    Shared,
    /// A pipe or socket of our own.
    Own,
    /// The master of a terminal, which looks like its end while nobody has it open.
    Terminal,
    /// Nothing: what comes is kept until it is asked for.
    Kept,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// From here to the other side.
    pub out: bool,
    /// From the other side to here.
    pub back: bool,
}

impl Ways {
    /// From here alone.
    pub const OUT: Ways = Ways { out: true, back: false };
    /// To here alone.
    pub const BACK: Ways = Ways { out: false, back: true };
    /// Both.
    pub const BOTH: Ways = Ways { out: true, back: true };
}

/// One end of a stream.
pub struct Stream {
    /// Where its bytes come from and go to, once that is there.
    pub fd: Option<OwnedFd>,
    /// What that is.
    pub end: End,
    /// Whether what comes from the descriptor is sent.
    pub out: bool,
    /// Whether what comes over the link is written to the descriptor.
    pub back: bool,
    /// Whether nothing more comes over the link.
    pub is_ending: bool,
    /// Whether a terminal is open nowhere at the moment.
    pub is_deserted: bool,
    /// What came over the link and is not written yet.
    pub pending: VecDeque<u8>,
    /// How much the other side has room for.
    pub may_send: usize,
    /// How much was written that the other side was not told of.
    pub taken: usize,
}

impl Stream {
    /// Begins one; without a descriptor, what comes waits for one.
    pub fn new(fd: Option<OwnedFd>, end: End, ways: Ways) -> Stream {
        Stream {
            fd,
            end,
            out: ways.out,
            back: ways.back,
            is_ending: false,
            is_deserted: false,
            pending: VecDeque::new(),
            may_send: WINDOW_BYTES,
            taken: 0,
        }
    }

    /// Writes what came over the link.
    pub fn write(&mut self, number: u32, outbox: &mut VecDeque<u8>) {
        let Some(fd) = &self.fd else { return };
        let (first, _) = self.pending.as_slices();
        let most = if self.end == End::Shared { SHARED_PIECE_BYTES } else { first.len() };
        match write(fd, &first[..first.len().min(most)]) {
            Ok(length) => {
                self.pending.drain(..length);
                self.taken += length;
                if self.taken >= CREDIT_BYTES {
                    send(outbox, &Frame::Credit { stream: number, bytes: self.taken as u32 });
                    self.taken = 0;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                self.pending.clear();
                self.back = false;
                send(outbox, &Frame::Closed { stream: number });
            }
        }
    }

    /// Sends what can be read.
    pub fn read(&mut self, number: u32, outbox: &mut VecDeque<u8>) {
        let Some(fd) = &self.fd else { return };
        let mut piece = vec![0; self.may_send.min(MAX_PAYLOAD_BYTES)];
        match read(fd, &mut piece) {
            Ok(length) if length > 0 => {
                piece.truncate(length);
                self.may_send -= length;
                send(outbox, &Frame::Data { stream: number, bytes: piece });
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::IO) if self.end == End::Terminal => self.is_deserted = true,
            Ok(_) | Err(_) => {
                self.out = false;
                send(outbox, &Frame::End { stream: number });
            }
        }
    }
}

/// Queues a frame.
pub fn send(outbox: &mut VecDeque<u8>, frame: &Frame) {
    let mut bytes = Vec::with_capacity(64);
    frame.write(&mut bytes);
    outbox.extend(bytes);
}
