//! The conversation over a link with a machine, as a state machine: bytes and events in, acts and bytes out. It touches no
//! descriptor and no clock, so all of it can be fuzzed (`fuzz/fuzz_targets/conversation.rs`).
//!
//! Of each stream only so much is sent as the other side has room for, so a program that does not read holds up its own
//! input and nothing else.
//!
//! **Invariants**, for whatever arrives (`hostile_conversations_end_and_keep_little`):
//! * What is kept is bounded: per stream by its window, altogether by [`BUDGET_BYTES`]; above it the link is not read.
//! * A phase allows its own frames only. After the report nothing is read any more.
//! * A violation ends the conversation at once and for good; what arrived is dropped, and never parsed a second time.

mod act;
mod phase;
mod stream;

use std::collections::{BTreeMap, VecDeque};

use silo_wire::MAX_MESSAGE_BYTES;
use silo_wire::frame::{BEFORE, FIRST_FREE, Frame, INPUT, JOB, MAX_PAYLOAD_BYTES, MAX_STREAMS, VERSION};

pub use act::{Act, Side, Violation};
pub use phase::{Patience, Phase};
pub use stream::{End, Fate, Ways};

use stream::Stream;

/// Frames that wait for the link; nothing more is read for it meanwhile.
const OUTBOX_BYTES: usize = 256 << 10;
/// Frames that wait for the link although nothing was read for it: then the other side is not heard, either.
const CLOGGED_BYTES: usize = 1 << 20;
/// Frames that wait for the link at most: what the caller wants to send beyond is dropped.
const FULL_BYTES: usize = 2 << 20;
/// Bytes that arrived and were not looked at. Longer than any frame, so a frame always fits.
const ARRIVED_BYTES: usize = 2 * MAX_PAYLOAD_BYTES;
/// Most of all streams together that a host keeps for a machine. 1,024 streams with full windows would be four times that.
pub const BUDGET_BYTES: usize = 64 << 20;

/// One side of the conversation.
#[derive(Debug)]
pub struct Conversation {
    side: Side,
    phase: Phase,
    arrived: Vec<u8>,
    /// How much of `arrived` was parsed.
    parsed: usize,
    outbox: VecDeque<u8>,
    streams: BTreeMap<u32, Stream>,
    /// Bits of the fixed streams that were ever there.
    opened: u32,
    /// The highest number that the other side gave a stream.
    highest: u32,
    next: u32,
    moved: u64,
}

impl Conversation {
    /// Begins one.
    pub fn new(side: Side) -> Conversation {
        Conversation {
            side,
            // A guest begins when its host is there.
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

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Which side this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Has a machine that waits for its job say hello once more.
    pub fn expect_hello(&mut self) {
        if self.phase == Phase::Setup {
            self.phase = Phase::Boot;
        }
    }

    /// Ends it: the link is closed or broken. Nothing is kept.
    pub fn end(&mut self) {
        self.phase = Phase::Over;
        self.arrived = Vec::new();
        self.parsed = 0;
        self.outbox = VecDeque::new();
        self.streams.clear();
    }

    // What arrives.

    /// How many bytes may be read from the link now; the rest has to wait there.
    pub fn room(&self) -> usize {
        let is_full = self.side == Side::Host && self.kept() >= BUDGET_BYTES;
        if !self.is_open() || is_full || self.outbox.len() >= CLOGGED_BYTES {
            return 0;
        }
        ARRIVED_BYTES.saturating_sub(self.arrived.len() - self.parsed)
    }

    /// Takes bytes that were read from the link, no more than there is [`Conversation::room`] for.
    pub fn arrive(&mut self, bytes: &[u8]) {
        if self.is_open() {
            self.arrived.drain(..self.parsed);
            self.parsed = 0;
            self.arrived.extend_from_slice(&bytes[..bytes.len().min(ARRIVED_BYTES - self.arrived.len())]);
        }
    }

    /// Parses what arrived until something is to be done.
    pub fn next_act(&mut self) -> Result<Option<Act>, Violation> {
        // A frame may be answered by another one: while those are not taken, no more is parsed.
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

    fn take(&mut self, frame: Frame) -> Result<Option<Act>, Violation> {
        match (self.side, self.phase, frame) {
            (Side::Host, Phase::Boot, Frame::Hello { version: VERSION }) => {
                self.phase = Phase::Setup;
                Ok(Some(Act::Tell(Frame::Hello { version: VERSION })))
            }
            (Side::Host, Phase::Boot, Frame::Hello { version }) => Err(Violation::Version { version }),
            (Side::Host, Phase::Boot, frame) => Err(self.out_of_turn(&frame)),
            (Side::Host, Phase::Setup, Frame::Started) => {
                self.phase = Phase::Running;
                Ok(Some(Act::Tell(Frame::Started)))
            }
            (Side::Host, Phase::Running, frame @ Frame::Stopped { .. }) => Ok(Some(Act::Tell(frame))),
            (Side::Host, Phase::Setup | Phase::Running, Frame::Report(report)) => {
                self.report();
                Ok(Some(Act::Tell(Frame::Report(report))))
            }
            (
                Side::Guest,
                _,
                frame @ (Frame::Signal { .. }
                | Frame::Window { .. }
                | Frame::Foreground { .. }
                | Frame::Settings { .. }
                | Frame::Awake { .. }),
            ) => Ok(Some(Act::Tell(frame))),
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
                Ok(Some(Act::Keys { stream }))
            }
            (_, _, frame) => Err(self.out_of_turn(&frame)),
        }
    }

    fn data(&mut self, number: u32, bytes: &[u8]) -> Result<Option<Act>, Violation> {
        self.must_be_known(number)?;
        if self.side == Side::Host && [JOB, INPUT, BEFORE].contains(&number) {
            return Err(Violation::NotIts { stream: number });
        }
        // What was under way when a stream was dropped is dropped, too.
        let Some(stream) = self.streams.get_mut(&number).filter(|stream| stream.back) else { return Ok(None) };
        if let Some(bytes) = stream.keep(number, bytes)? {
            self.send(&Frame::Credit { stream: number, bytes });
        }
        Ok(None)
    }

    fn mark(&mut self, number: u32, mark: impl Fn(&mut Stream)) -> Result<Option<Act>, Violation> {
        // The end of a fixed stream that this program does not have says nothing.
        if number >= FIRST_FREE {
            self.must_be_known(number)?;
        }
        if let Some(stream) = self.streams.get_mut(&number) {
            mark(stream);
        }
        let fate = self.settle(number);
        Ok((fate != Fate::Stays).then_some(Act::Settle { stream: number, fate }))
    }

    fn message(&mut self, stream: Option<u32>, bytes: Vec<u8>) -> Result<Option<Act>, Violation> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(Violation::LongMessage { length: bytes.len() });
        }
        if let Some(number) = stream {
            if self.side == Side::Guest {
                return Err(Violation::NotIts { stream: number });
            }
            self.must_be_new(number)?;
        }
        Ok(Some(Act::Message { stream, bytes }))
    }

    /// Frames about a stream that is gone may have been under way; those about one that never was are nobody's.
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

    /// Nothing more comes, and nothing more is sent; what came before is still written.
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

    // What is sent.

    /// Queues a frame that is about no stream. Drops it where the other side takes nothing any more.
    pub fn send(&mut self, frame: &Frame) {
        if self.is_open() && self.outbox.len() < FULL_BYTES {
            let mut bytes = Vec::with_capacity(64);
            frame.write(&mut bytes);
            self.outbox.extend(bytes);
        }
    }

    /// The next bytes for the link.
    pub fn outbox(&self) -> &[u8] {
        let (first, _) = self.outbox.as_slices();
        &first[..first.len().min(MAX_PAYLOAD_BYTES)]
    }

    /// Notes that the link took so many of them.
    pub fn sent(&mut self, length: usize) {
        self.outbox.drain(..length.min(self.outbox.len()));
    }

    /// Drops what waits for the link: its other side does not read any more.
    pub fn drop_outbox(&mut self) {
        self.outbox = VecDeque::new();
    }

    /// Whether more may be read for the link.
    pub fn has_room(&self) -> bool {
        self.is_open() && self.outbox.len() < OUTBOX_BYTES
    }

    // Streams.

    /// Adds a stream; without a descriptor, what comes waits for one.
    pub fn add(&mut self, number: u32, end: End, ways: Ways, is_attached: bool) {
        if number < FIRST_FREE {
            self.opened |= 1 << number;
        }
        self.streams.insert(number, Stream::new(end, ways, is_attached));
    }

    /// Adds a stream under a number that is free.
    pub fn add_next(&mut self) -> u32 {
        while self.streams.contains_key(&self.next) {
            self.next = self.next.checked_add(1).unwrap_or(FIRST_FREE);
        }
        let number = self.next;
        self.next = number.checked_add(1).unwrap_or(FIRST_FREE);
        self.add(number, End::Own, Ways::BOTH, true);
        number
    }

    /// Bounds what may come of a stream altogether.
    pub fn bound(&mut self, number: u32, bytes: u64) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.left = bytes;
        }
    }

    /// Turns a stream away that the other side began.
    pub fn refuse(&mut self, number: u32) {
        self.send(&Frame::Closed { stream: number });
        self.send(&Frame::End { stream: number });
    }

    /// Whether another stream may begin.
    pub fn has_place(&self) -> bool {
        self.streams.len() < MAX_STREAMS
    }

    /// Notes that a stream has its descriptor.
    pub fn attach(&mut self, number: u32) -> Fate {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.is_attached = true;
        }
        // Its end may have come already.
        self.settle(number)
    }

    /// Drops a stream.
    pub fn remove(&mut self, number: u32) {
        self.streams.remove(&number);
    }

    /// Whether a stream is there still.
    pub fn has(&self, number: u32) -> bool {
        self.streams.contains_key(&number)
    }

    /// Whether a stream is the master of a terminal.
    pub fn is_terminal(&self, number: u32) -> bool {
        self.streams.get(&number).is_some_and(|stream| stream.end == End::Terminal)
    }

    /// The numbers of all streams.
    pub fn numbers(&self) -> Vec<u32> {
        self.streams.keys().copied().collect()
    }

    /// What arrived of a stream and is to be written.
    pub fn pending(&self, number: u32) -> &[u8] {
        self.streams.get(&number).filter(|stream| stream.back && stream.is_attached).map_or(&[], |stream| stream.pending.as_slices().0)
    }

    /// How many bytes of a stream may be read and sent now.
    pub fn may_send(&self, number: u32) -> usize {
        let stream = self.streams.get(&number).filter(|stream| stream.out && stream.is_attached && self.has_room());
        stream.map_or(0, |stream| stream.may_send.min(MAX_PAYLOAD_BYTES))
    }

    /// Sends bytes that were read, no more than [`Conversation::may_send`]; none for the end.
    pub fn send_data(&mut self, number: u32, bytes: Vec<u8>) -> Fate {
        let Some(stream) = self.streams.get_mut(&number) else { return Fate::Stays };
        if bytes.is_empty() {
            stream.out = false;
            self.send(&Frame::End { stream: number });
        } else {
            stream.may_send = stream.may_send.saturating_sub(bytes.len());
            self.send(&Frame::Data { stream: number, bytes });
        }
        self.moved += u64::from(number >= FIRST_FREE);
        self.settle(number)
    }

    /// Notes that so many pending bytes of a stream were written.
    pub fn wrote(&mut self, number: u32, length: usize) -> Fate {
        let Some(stream) = self.streams.get_mut(&number) else { return Fate::Stays };
        if let Some(bytes) = stream.wrote(length) {
            self.send(&Frame::Credit { stream: number, bytes });
        }
        self.moved += u64::from(number >= FIRST_FREE);
        self.settle(number)
    }

    /// Notes that nobody takes bytes of a stream any more.
    pub fn closed(&mut self, number: u32) -> Fate {
        let Some(stream) = self.streams.get_mut(&number) else { return Fate::Stays };
        stream.pending = VecDeque::new();
        stream.back = false;
        self.send(&Frame::Closed { stream: number });
        self.moved += u64::from(number >= FIRST_FREE);
        self.settle(number)
    }

    /// Takes what came of a stream that is kept, once it has ended.
    pub fn whole(&mut self, number: u32) -> Option<Vec<u8>> {
        let ended = self.streams.get(&number).is_some_and(|stream| stream.is_ending && stream.end == End::Kept);
        ended.then(|| self.streams.remove(&number).map(|stream| stream.pending.into())).flatten()
    }

    /// Passes an end on once everything before it was written, and drops a stream that goes neither way.
    pub fn settle(&mut self, number: u32) -> Fate {
        let fate = self.streams.get_mut(&number).map_or(Fate::Stays, Stream::settle);
        if fate == Fate::Gone {
            self.streams.remove(&number);
        }
        fate
    }

    // What is under way.

    /// Whether everything that was to be sent is sent.
    pub fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Whether something of connections is still to be carried on towards the host: what their programs wrote last.
    pub fn owes(&self) -> bool {
        self.streams.range(FIRST_FREE..).any(|(_, stream)| match self.side {
            Side::Guest => stream.out,
            Side::Host => stream.back && !stream.pending.is_empty(),
        })
    }

    /// Whether something of the program's own streams is still to be written.
    pub fn has_output(&self) -> bool {
        self.streams.range(..FIRST_FREE).any(|(_, stream)| stream.back && !stream.pending.is_empty())
    }

    /// Says how often something of connections was carried.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// How many bytes are kept for the other side.
    pub fn kept(&self) -> usize {
        let pending: usize = self.streams.values().map(|stream| stream.pending.len()).sum();
        self.arrived.len() + self.outbox.len() + pending
    }
}

#[cfg(test)]
mod tests;
