//! The conversation over a link with a VM, as a state machine: bytes and events in, actions and bytes out. It uses no descriptor and no
//! clock, so all of it can be fuzzed (`fuzz/fuzz_targets/conversation.rs`).
//!
//! Each stream has a window with flow control. So a program that does not read blocks only its own input.
//!
//! **Invariants**, for any input (`hostile_conversations_end_and_keep_little`):
//! * Memory is limited: per stream by its window, in total by [`BUDGET_BYTES`]; above that limit the link is not read.
//! * A phase allows only its own frames. After the report no more data is read.
//! * A violation ends the conversation permanently; received data is dropped and never parsed again.

mod phase;

mod violation;

mod stream;

mod action;

use std::collections::{BTreeMap, VecDeque};

use silo_wire::MAX_MESSAGE_BYTES;
use silo_wire::frame::{BEFORE, FIRST_FREE, Frame, INPUT, JOB, MAX_PAYLOAD_BYTES, MAX_STREAMS, VERSION};

pub use action::{Action, Side};
pub use phase::{Phase, TimeLimits};
pub use stream::{DescriptorAction, Directions, End};
pub use violation::Violation;

use stream::Stream;

/// Outbox size above which no more stream data is read for the link.
const OUTBOX_BYTES: usize = 256 << 10;
/// Outbox size above which the peer's frames are not parsed either.
const CLOGGED_BYTES: usize = 1 << 20;
/// Most bytes in the outbox: further frames from the caller are dropped.
const FULL_BYTES: usize = 2 << 20;
/// Most bytes received and not parsed. More than any frame, so a whole frame always fits.
const ARRIVED_BYTES: usize = 2 * MAX_PAYLOAD_BYTES;
/// Most bytes that a host keeps for a VM over all streams. 1,024 streams with full windows would need four times that.
pub const BUDGET_BYTES: usize = 64 << 20;

/// One side of the conversation.
#[derive(Debug)]
pub struct Protocol {
    side: Side,
    phase: Phase,
    arrived: Vec<u8>,
    /// The number of parsed bytes in `arrived`.
    parsed: usize,
    outbox: VecDeque<u8>,
    streams: BTreeMap<u32, Stream>,
    /// A bit for each fixed stream that ever existed.
    opened: u32,
    /// The highest stream number used by the peer.
    highest: u32,
    next: u32,
    moved: u64,
}

impl Protocol {
    /// Starts a conversation.
    pub fn new(side: Side) -> Protocol {
        Protocol {
            side,
            // The guest starts after its host.
            phase: if side == Side::Host { Phase::Boot } else { Phase::Running },
            arrived: Vec::new(),
            parsed: 0,
            outbox: VecDeque::new(),
            streams: BTreeMap::new(),
            opened: 0,
            highest: FIRST_FREE - 1,
            next: FIRST_FREE,
            moved: 0,
        }
    }

    /// Returns the current phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the side.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Expects a second hello from a VM that waits for its job.
    pub fn expect_hello(&mut self) {
        if self.phase == Phase::Setup {
            self.phase = Phase::Boot;
        }
    }

    /// Ends the conversation, because the link is closed or broken. Drops all data.
    pub fn end(&mut self) {
        self.phase = Phase::Over;
        self.arrived = Vec::new();
        self.parsed = 0;
        self.outbox = VecDeque::new();
        self.streams.clear();
    }

    // Receiving.

    /// Returns how many bytes may be read from the link now; the rest must wait there.
    pub fn room(&self) -> usize {
        let is_full = self.side == Side::Host && self.kept() >= BUDGET_BYTES;
        if !self.is_open() || is_full || self.outbox.len() >= CLOGGED_BYTES {
            return 0;
        }
        ARRIVED_BYTES.saturating_sub(self.arrived.len() - self.parsed)
    }

    /// Accepts bytes read from the link, at most [`Conversation::room`].
    pub fn arrive(&mut self, bytes: &[u8]) {
        if self.is_open() {
            self.arrived.drain(..self.parsed);
            self.parsed = 0;
            self.arrived.extend_from_slice(&bytes[..bytes.len().min(ARRIVED_BYTES - self.arrived.len())]);
        }
    }

    /// Parses received bytes up to the next action.
    pub fn next_act(&mut self) -> Result<Option<Action>, Violation> {
        // Handling a frame may queue another one, so parsing pauses while the outbox is too full.
        while self.is_open() && self.outbox.len() < CLOGGED_BYTES {
            let act = match Frame::read(&self.arrived[self.parsed..]) {
                Ok(None) => {
                    self.arrived.drain(..self.parsed);
                    self.parsed = 0;
                    return Ok(None);
                }
                Ok(Some((frame, length))) => {
                    self.parsed += length;
                    self.take(frame)
                }
                Err(_) => Err(Violation::Malformed),
            };
            match act {
                Ok(None) => {}
                Ok(act) => return Ok(act),
                Err(violation) => {
                    self.end();
                    return Err(violation);
                }
            }
        }
        Ok(None)
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Action>, Violation> {
        match (self.side, self.phase, frame) {
            (Side::Host, Phase::Boot, Frame::Hello { version: VERSION }) => {
                self.phase = Phase::Setup;
                Ok(Some(Action::Tell(Frame::Hello { version: VERSION })))
            }
            (Side::Host, Phase::Boot, Frame::Hello { version }) => Err(Violation::Version { version }),
            (Side::Host, Phase::Boot, frame) => Err(self.out_of_turn(&frame)),
            (Side::Host, Phase::Setup, Frame::Started) => {
                self.phase = Phase::Running;
                Ok(Some(Action::Tell(Frame::Started)))
            }
            (Side::Host, Phase::Running, frame @ (Frame::Stopped { .. } | Frame::Placed)) => Ok(Some(Action::Tell(frame))),
            (Side::Host, Phase::Setup | Phase::Running, Frame::Report(report)) => {
                self.report();
                Ok(Some(Action::Tell(Frame::Report(report))))
            }
            (
                Side::Guest,
                _,
                frame @ (Frame::Signal { .. }
                | Frame::Window { .. }
                | Frame::Foreground { .. }
                | Frame::Settings { .. }
                | Frame::Awake { .. }),
            ) => Ok(Some(Action::Tell(frame))),
            (_, _, Frame::Data { stream, bytes }) => self.data(stream, &bytes),
            (_, _, Frame::End { stream }) => self.mark(stream, |stream| stream.is_ending = true),
            (_, _, Frame::Closed { stream }) => self.mark(stream, |stream| stream.out = false),
            (_, _, Frame::Credit { stream, bytes }) => {
                self.must_be_known(stream)?;
                self.streams.get_mut(&stream).map_or(Ok(()), |one| one.credit(stream, bytes)).map(|()| None)
            }
            (_, _, Frame::Message { stream, bytes }) => self.message(stream, bytes),
            (Side::Host, _, Frame::Keys { stream }) => {
                self.must_be_new(stream)?;
                Ok(Some(Action::Keys { stream }))
            }
            (_, _, frame) => Err(self.out_of_turn(&frame)),
        }
    }

    fn data(&mut self, number: u32, bytes: &[u8]) -> Result<Option<Action>, Violation> {
        self.must_be_known(number)?;
        if self.side == Side::Host && [JOB, INPUT, BEFORE].contains(&number) {
            return Err(Violation::NotIts { stream: number });
        }
        // Data in transit when a stream was dropped is dropped, too.
        let Some(stream) = self.streams.get_mut(&number).filter(|stream| stream.back) else { return Ok(None) };
        if let Some(bytes) = stream.keep(number, bytes)? {
            self.send(&Frame::Credit { stream: number, bytes });
        }
        Ok(None)
    }

    fn mark(&mut self, number: u32, mark: impl Fn(&mut Stream)) -> Result<Option<Action>, Violation> {
        // Ignore the end of a fixed stream that this program does not have.
        if number >= FIRST_FREE {
            self.must_be_known(number)?;
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            mark(stream);
        }
        let fate = self.apply_end(number);
        Ok((fate != DescriptorAction::Stays).then_some(Action::Settle { stream: number, fate }))
    }

    fn message(&mut self, stream: Option<u32>, bytes: Vec<u8>) -> Result<Option<Action>, Violation> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Violation::LongMessage { length: bytes.len() });
        }
        if let Some(number) = stream {
            if self.side == Side::Guest {
                return Err(Violation::NotIts { stream: number });
            }
            self.must_be_new(number)?;
        }
        Ok(Some(Action::Message { stream, bytes }))
    }

    /// A frame of a closed stream may have been in transit; a frame of one that never existed is a violation.
    fn must_be_known(&self, number: u32) -> Result<(), Violation> {
        let is_known = match (self.side, number < FIRST_FREE) {
            (Side::Guest, _) => true,
            (Side::Host, true) => self.opened & 1 << number != 0,
            (Side::Host, false) => number <= self.highest,
        };
        if is_known { Ok(()) } else { Err(Violation::NotIts { stream: number }) }
    }

    fn must_be_new(&mut self, number: u32) -> Result<(), Violation> {
        if self.streams.contains_key(&number) {
            return Err(Violation::InUse { stream: number });
        }
        self.highest = self.highest.max(number);
        Ok(())
    }

    fn out_of_turn(&self, frame: &Frame) -> Violation {
        Violation::OutOfTurn { name: frame.name(), phase: self.phase }
    }

    /// Ends both directions; data received before is still written.
    fn report(&mut self) {
        self.phase = Phase::Reported;
        self.arrived = Vec::new();
        self.parsed = 0;
        self.outbox = VecDeque::new();
        for stream in self.streams.values_mut() {
            stream.is_ending = true;
            stream.out = false;
        }
    }

    fn is_open(&self) -> bool {
        self.phase < Phase::Reported
    }

    // Sending.

    /// Queues a frame that belongs to no stream. Drops it if the peer no longer reads.
    pub fn send(&mut self, frame: &Frame) {
        if self.is_open() && self.outbox.len() < FULL_BYTES {
            let mut bytes = Vec::with_capacity(64);
            frame.write(&mut bytes);
            self.outbox.extend(bytes);
        }
    }

    /// Returns the next bytes for the link.
    pub fn outbox(&self) -> &[u8] {
        let (first, _) = self.outbox.as_slices();
        &first[..first.len().min(MAX_PAYLOAD_BYTES)]
    }

    /// Removes bytes from the outbox that were written to the link.
    pub fn sent(&mut self, length: usize) {
        self.outbox.drain(..length.min(self.outbox.len()));
    }

    /// Drops the outbox, because the peer no longer reads.
    pub fn drop_outbox(&mut self) {
        self.outbox = VecDeque::new();
    }

    /// True if more data may be read for the link.
    pub fn has_room(&self) -> bool {
        self.is_open() && self.outbox.len() < OUTBOX_BYTES
    }

    // Streams.

    /// Adds a stream.
    pub fn add(&mut self, number: u32, end: End, ways: Directions) {
        let mut stream = Stream::new(end, ways);
        stream.is_attached = true;
        self.insert(number, stream);
    }

    /// Adds a stream without a descriptor: received data waits for one.
    pub fn add_unattached(&mut self, number: u32, end: End, ways: Directions) {
        self.insert(number, Stream::new(end, ways));
    }

    fn insert(&mut self, number: u32, stream: Stream) {
        if number < FIRST_FREE {
            self.opened |= 1 << number;
        }
        self.streams.insert(number, stream);
    }

    /// Adds a stream under a free number.
    pub fn add_next(&mut self) -> u32 {
        while self.streams.contains_key(&self.next) {
            self.next = self.next.checked_add(1).unwrap_or(FIRST_FREE);
        }
        let number = self.next;
        self.next = number.checked_add(1).unwrap_or(FIRST_FREE);
        self.add(number, End::Own, Directions::BOTH);
        number
    }

    /// Limits the total bytes that may arrive on a stream.
    pub fn bound(&mut self, number: u32, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.left = bytes;
        }
    }

    /// Rejects a stream that the peer opened.
    pub fn refuse(&mut self, number: u32) {
        self.send(&Frame::Closed { stream: number });
        self.send(&Frame::End { stream: number });
    }

    /// True if another stream may be opened.
    pub fn has_place(&self) -> bool {
        self.streams.len() < MAX_STREAMS
    }

    /// Records that a stream has its descriptor.
    pub fn attach(&mut self, number: u32) -> DescriptorAction {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.is_attached = true;
        }
        // Its end may have arrived already.
        self.apply_end(number)
    }

    /// Drops a stream.
    pub fn remove(&mut self, number: u32) {
        self.streams.remove(&number);
    }

    /// True if a stream exists.
    pub fn has(&self, number: u32) -> bool {
        self.streams.contains_key(&number)
    }

    /// True if a stream is the master side of a terminal.
    pub fn is_terminal(&self, number: u32) -> bool {
        self.streams.get(&number).is_some_and(|stream| stream.end == End::Terminal)
    }

    /// Returns the numbers of all streams.
    pub fn numbers(&self) -> Vec<u32> {
        self.streams.keys().copied().collect()
    }

    /// Returns a stream's received bytes that are to be written.
    pub fn pending(&self, number: u32) -> &[u8] {
        self.streams.get(&number).filter(|stream| stream.back && stream.is_attached).map_or(&[], |stream| stream.pending.as_slices().0)
    }

    /// Returns how many bytes of a stream may be read and sent now.
    pub fn may_send(&self, number: u32) -> usize {
        let stream = self.streams.get(&number).filter(|stream| stream.out && stream.is_attached && self.has_room());
        stream.map_or(0, |stream| stream.may_send.min(MAX_PAYLOAD_BYTES))
    }

    /// Sends bytes, at most [`Conversation::may_send`]; an empty list means the end.
    pub fn send_data(&mut self, number: u32, bytes: Vec<u8>) -> DescriptorAction {
        let Some(stream) = self.streams.get_mut(&number) else { return DescriptorAction::Stays };
        if bytes.is_empty() {
            stream.out = false;
            self.send(&Frame::End { stream: number });
        } else {
            stream.may_send = stream.may_send.saturating_sub(bytes.len());
            self.send(&Frame::Data { stream: number, bytes });
        }
        self.moved += u64::from(number >= FIRST_FREE);
        self.apply_end(number)
    }

    /// Records that pending bytes of a stream were written.
    pub fn wrote(&mut self, number: u32, length: usize) -> DescriptorAction {
        let Some(stream) = self.streams.get_mut(&number) else { return DescriptorAction::Stays };
        if let Some(bytes) = stream.wrote(length) {
            self.send(&Frame::Credit { stream: number, bytes });
        }
        self.moved += u64::from(number >= FIRST_FREE);
        self.apply_end(number)
    }

    /// Records that the receiver of a stream is gone.
    pub fn closed(&mut self, number: u32) -> DescriptorAction {
        let Some(stream) = self.streams.get_mut(&number) else { return DescriptorAction::Stays };
        stream.pending = VecDeque::new();
        stream.back = false;
        self.send(&Frame::Closed { stream: number });
        self.moved += u64::from(number >= FIRST_FREE);
        self.apply_end(number)
    }

    /// Takes the content of a kept stream, once it has ended.
    pub fn whole(&mut self, number: u32) -> Option<Vec<u8>> {
        let ended = self.streams.get(&number).is_some_and(|stream| stream.is_ending && stream.end == End::Kept);
        ended.then(|| self.streams.remove(&number).map(|stream| stream.pending.into())).flatten()
    }

    /// Applies an end after all data before it was written, and drops a stream that has ended in both directions.
    pub fn apply_end(&mut self, number: u32) -> DescriptorAction {
        let fate = self.streams.get_mut(&number).map_or(DescriptorAction::Stays, Stream::apply_end);
        if fate == DescriptorAction::Gone {
            self.streams.remove(&number);
        }
        fate
    }

    // Progress.

    /// True if the outbox is empty.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// True if data of connections is still to be forwarded to the host: the last writes of their programs.
    pub fn owes(&self) -> bool {
        self.streams.range(FIRST_FREE..).any(|(_, stream)| match self.side {
            Side::Guest => stream.out,
            Side::Host => stream.back && !stream.pending.is_empty(),
        })
    }

    /// True if data of the program's own streams is still to be written.
    pub fn has_output(&self) -> bool {
        self.streams.range(..FIRST_FREE).any(|(_, stream)| stream.back && !stream.pending.is_empty())
    }

    /// Returns a counter that increases with each piece of connection data.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Returns the number of bytes kept for the peer.
    pub fn kept(&self) -> usize {
        let pending: usize = self.streams.values().map(|stream| stream.pending.len()).sum();
        self.arrived.len() + self.outbox.len() + pending
    }
}

#[cfg(test)]
mod tests;
