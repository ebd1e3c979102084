//! One end of a stream on a link, as data: its directions, received bytes not yet written, and credit for sending.

use std::collections::VecDeque;

use silo_wire::frame::WINDOW_BYTES;

use super::violation::Violation;

/// Number of written bytes after which a credit frame is sent.
const CREDIT_BYTES: usize = WINDOW_BYTES / 4;
/// Most bytes of a stream that is kept as a whole: the job of a VM, and the initial files of a step.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// The descriptor at the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A pipe, file or terminal shared with other processes.
    Shared,
    /// A pipe or socket of our own.
    Own,
    /// The master side of a terminal, which reports an error while no process has the terminal open.
    Terminal,
    /// None: received data is kept until it is requested.
    Kept,
}

/// The directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions {
    /// From this side to the peer.
    pub out: bool,
    /// From the peer to this side.
    pub back: bool,
}

impl Directions {
    /// Outgoing only.
    pub const OUT: Directions = Directions { out: true, back: false };
    /// Incoming only.
    pub const BACK: Directions = Directions { out: false, back: true };
    /// Both directions.
    pub const BOTH: Directions = Directions { out: true, back: true };
}

/// The action on a stream's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorAction {
    /// None.
    Stays,
    /// All data was written and no more comes: shut down the write half.
    HalfShut,
    /// Both directions have ended: close it.
    Gone,
}

/// One end of one stream.
#[derive(Debug)]
pub struct Stream {
    /// The descriptor's type.
    pub end: End,
    /// True if data from the descriptor is sent.
    pub out: bool,
    /// True if data from the link is written to the descriptor.
    pub back: bool,
    /// True if no more data comes from the link.
    pub is_ending: bool,
    /// True if there is a descriptor; without one, received data waits for it.
    pub is_attached: bool,
    /// Bytes received and not yet written.
    pub pending: VecDeque<u8>,
    /// Send credit in bytes.
    pub may_send: usize,
    /// Most bytes that may still arrive in total.
    pub left: u64,
    /// Bytes written for which the peer has not received credit.
    taken: usize,
}

impl Stream {
    /// Creates one end, without a descriptor.
    pub fn new(end: End, ways: Directions) -> Stream {
        Stream {
            end,
            out: ways.out,
            back: ways.back,
            is_ending: false,
            is_attached: false,
            pending: VecDeque::new(),
            may_send: WINDOW_BYTES,
            left: u64::MAX,
            taken: 0,
        }
    }

    /// Stores received bytes until they are written; returns credit to send immediately.
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

    /// Records that pending bytes were written; returns credit to send.
    pub fn wrote(&mut self, length: usize) -> Option<u32> {
        let length = length.min(self.pending.len());
        self.pending.drain(..length);
        self.taken += length;
        (self.taken >= CREDIT_BYTES).then(|| std::mem::take(&mut self.taken) as u32)
    }

    /// Adds credit from the peer.
    pub fn credit(&mut self, number: u32, bytes: u32) -> Result<(), Violation> {
        let may_send = self.may_send.saturating_add(bytes as usize);
        if may_send > WINDOW_BYTES {
            return Err(Violation::TooMuchCredit { stream: number });
        }
        self.may_send = may_send;
        Ok(())
    }

    /// Applies an end after all data before it was written, and returns the action on the descriptor.
    pub fn apply_end(&mut self) -> DescriptorAction {
        let mut fate = DescriptorAction::Stays;
        if self.back && self.is_ending && self.pending.is_empty() && self.is_attached {
            self.back = false;
            // A hangup of a terminal ends both directions.
            self.out &= self.end != End::Terminal;
            if self.end == End::Own {
                fate = DescriptorAction::HalfShut;
            }
        }
        if self.is_attached && !self.out && !self.back { DescriptorAction::Gone } else { fate }
    }
}
