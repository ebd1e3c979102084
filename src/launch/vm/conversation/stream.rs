//! One end of one stream of a link, as data: which ways it goes, what arrived and is not written yet, and what may be sent.

use std::collections::VecDeque;

use silo_wire::frame::WINDOW_BYTES;

use super::Violation;

/// Written bytes that are worth a credit frame.
const CREDIT_BYTES: usize = WINDOW_BYTES / 4;
/// Most bytes of a stream that is kept as a whole: the job of a machine, and the changes that a step begins with.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// What is at the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A pipe, file or terminal that others use, too.
    Shared,
    /// A pipe or socket of our own.
    Own,
    /// The master of a terminal, which reads as ended while nobody has it open.
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

/// What becomes of the descriptor of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Stays,
    /// Everything was written, and no more comes: its writing half is shut down.
    HalfShut,
    /// The stream goes neither way: it is closed.
    Gone,
}

/// One end of one stream.
#[derive(Debug)]
pub struct Stream {
    /// What is at its end.
    pub end: End,
    /// Whether what comes from the descriptor is sent.
    pub out: bool,
    /// Whether what comes over the link is written to the descriptor.
    pub back: bool,
    /// Whether nothing more comes over the link.
    pub is_ending: bool,
    /// Whether there is a descriptor; without one, what comes waits for it.
    pub is_attached: bool,
    /// What came over the link and is not written yet.
    pub pending: VecDeque<u8>,
    /// Bytes that the other side has room for.
    pub may_send: usize,
    /// Bytes that may still come, altogether.
    pub left: u64,
    /// Bytes that were written and that the other side has not been given credit for.
    taken: usize,
}

impl Stream {
    /// Begins one.
    pub fn new(end: End, ways: Ways, is_attached: bool) -> Stream {
        Stream {
            end,
            out: ways.out,
            back: ways.back,
            is_ending: false,
            is_attached,
            pending: VecDeque::new(),
            may_send: WINDOW_BYTES,
            left: u64::MAX,
            taken: 0,
        }
    }

    /// Keeps bytes that arrived until they are written; returns the credit that the other side gets for them at once.
    pub fn keep(&mut self, number: u32, bytes: &[u8]) -> Result<Option<u32>, Violation> {
        let most = if self.end == End::Kept { MAX_KEPT_BYTES } else { WINDOW_BYTES };
        let left = self.left.checked_sub(bytes.len() as u64);
        let Some(left) = left.filter(|_| !self.is_ending && self.pending.len() + bytes.len() <= most) else {
            return Err(Violation::TooMuch { stream: number });
        };
        self.left = left;
        self.pending.extend(bytes);
        Ok((self.end == End::Kept).then_some(bytes.len() as u32))
    }

    /// Notes that so many pending bytes were written; returns the credit that is due.
    pub fn wrote(&mut self, length: usize) -> Option<u32> {
        let length = length.min(self.pending.len());
        self.pending.drain(..length);
        self.taken += length;
        (self.taken >= CREDIT_BYTES).then(|| std::mem::take(&mut self.taken) as u32)
    }

    /// Takes credit for bytes that were sent.
    pub fn credit(&mut self, number: u32, bytes: u32) -> Result<(), Violation> {
        let may_send = self.may_send.saturating_add(bytes as usize);
        if may_send > WINDOW_BYTES {
            return Err(Violation::TooMuchCredit { stream: number });
        }
        self.may_send = may_send;
        Ok(())
    }

    /// Notes an end once everything before it was written, and says what becomes of the descriptor.
    pub fn settle(&mut self) -> Fate {
        let mut fate = Fate::Stays;
        if self.back && self.is_ending && self.pending.is_empty() && self.is_attached {
            self.back = false;
            // A terminal that is hung up is so in both directions.
            self.out &= self.end != End::Terminal;
            if self.end == End::Own {
                fate = Fate::HalfShut;
            }
        }
        if self.is_attached && !self.out && !self.back { Fate::Gone } else { fate }
    }
}
