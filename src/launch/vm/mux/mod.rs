//! Streams over one link, on either side of it: what is read here is written there, and no more than is taken.
//!
//! The link carries frames ([`silo_wire::frame`]). Of each stream only so much is sent as the other side has room for, so
//! a program that does not read holds up its own input and nothing else, and neither side can fill the other's memory.
//!
//! A *messenger* is a socket that keeps messages apart: the guest's end of it is the agent of the network, the host's
//! the broker. A connection that the agent hands over becomes a stream, and on the host a connection again. So does
//! whoever asks the user's ssh agent.

mod handover;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};
use silo_wire::frame::{FIRST_FREE, Frame, MAX_PAYLOAD_BYTES, WINDOW_BYTES};

use super::stream::{End, Stream, Ways, send};

pub use handover::Keys;

/// Frames that wait for the link; nothing more is read for it meanwhile.
const OUTBOX_BYTES: usize = 256 << 10;
/// Frames that wait for the link although nothing was read for it: then the other side is not heard, either.
const CLOGGED_BYTES: usize = 1 << 20;
/// The most reads of the link before what came is looked at.
const READS_AT_ONCE: usize = 16;
/// The most of a stream that is kept: its first and only one is what a machine is to do.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// Which side of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Outside: streams of the network are made into connections.
    Host,
    /// Inside: connections of the network are made into streams.
    Guest,
}

/// Why the conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side is gone.
    #[error("the link is closed")]
    Gone,
    /// The other side says what nobody who is honest says.
    #[error("what came over the link is no frame")]
    Broken,
    /// A call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One end of a link with its streams.
pub struct Mux {
    link: OwnedFd,
    side: Side,
    arrived: Vec<u8>,
    piece: Vec<u8>,
    outbox: VecDeque<u8>,
    streams: BTreeMap<u32, Stream>,
    messenger: Option<OwnedFd>,
    keys: Option<Keys>,
    next: u32,
    frames: VecDeque<Frame>,
    moved: u64,
}

/// What a descriptor that is polled is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The link.
    Link,
    /// The messenger.
    Messenger,
    /// What listens for who asks the ssh agent.
    Keys,
    /// A stream.
    Stream(u32),
}

impl Mux {
    /// Begins with a link that does not wait.
    pub fn new(link: OwnedFd, side: Side) -> Mux {
        Mux {
            link,
            side,
            arrived: Vec::new(),
            piece: vec![0; 2 * MAX_PAYLOAD_BYTES],
            outbox: VecDeque::new(),
            streams: BTreeMap::new(),
            messenger: None,
            keys: None,
            next: FIRST_FREE,
            frames: VecDeque::new(),
            moved: 0,
        }
    }

    /// Adds a stream; without a descriptor, what comes waits for one.
    pub fn add(&mut self, number: u32, fd: Option<OwnedFd>, end: End, ways: Ways) {
        self.streams.insert(number, Stream::new(fd, end, ways));
    }

    /// Gives a stream that waits for it its descriptor.
    pub fn attach(&mut self, number: u32, fd: OwnedFd) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.fd = Some(fd);
        }
        // Its end may have come already.
        self.settle(number);
    }

    /// The link.
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Takes the messenger.
    pub fn take_messenger(&mut self, messenger: OwnedFd) {
        self.messenger = Some(messenger);
    }

    /// Takes the way to the ssh agent.
    pub fn take_keys(&mut self, keys: Keys) {
        self.keys = Some(keys);
    }

    /// Whether the messenger is there still.
    pub fn has_messenger(&self) -> bool {
        self.messenger.is_some()
    }

    /// Sends a frame that is about no stream.
    pub fn send(&mut self, frame: &Frame) {
        send(&mut self.outbox, frame);
    }

    /// Returns the next frame that is about no stream.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// The descriptor at the end of a stream.
    pub fn descriptor(&self, number: u32) -> Option<BorrowedFd<'_>> {
        self.streams.get(&number)?.fd.as_ref().map(AsFd::as_fd)
    }

    /// Takes what came of a stream that is kept, once it has ended.
    pub fn whole(&mut self, number: u32) -> Option<Vec<u8>> {
        let ended = self.streams.get(&number).is_some_and(|stream| stream.is_ending && stream.end == End::Kept);
        ended.then(|| self.streams.remove(&number).map(|stream| stream.pending.into())).flatten()
    }

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

    /// Says how often something of connections was carried.
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether a stream is there still.
    pub fn has(&self, number: u32) -> bool {
        self.streams.contains_key(&number)
    }

    /// Drops a stream.
    pub fn remove(&mut self, number: u32) {
        self.streams.remove(&number);
    }

    /// Whether a terminal is to be looked at again after a while: nothing says when somebody opens it.
    pub fn is_deserted(&self) -> bool {
        self.streams.values().any(|stream| stream.is_deserted)
    }

    /// Looks at deserted terminals again.
    pub fn look_again(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.is_deserted = false);
    }

    /// Says what to poll for.
    pub fn interest(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut link = PollFlags::empty();
        link.set(PollFlags::IN, self.outbox.len() < CLOGGED_BYTES);
        link.set(PollFlags::OUT, !self.outbox.is_empty());
        let mut all = vec![(Source::Link, self.link.as_fd(), link)];
        let has_room = self.outbox.len() < OUTBOX_BYTES;
        if let Some(messenger) = self.messenger.as_ref().filter(|_| has_room) {
            all.push((Source::Messenger, messenger.as_fd(), PollFlags::IN));
        }
        if let Some(Keys::Listener(listener)) = self.keys.as_ref().filter(|_| has_room) {
            all.push((Source::Keys, listener.as_fd(), PollFlags::IN));
        }
        for (number, stream) in &self.streams {
            let Some(fd) = stream.fd.as_ref().filter(|_| !stream.is_deserted) else { continue };
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, stream.out && stream.may_send > 0 && has_room);
            flags.set(PollFlags::OUT, stream.back && !stream.pending.is_empty());
            if !flags.is_empty() {
                all.push((Source::Stream(*number), fd.as_fd(), flags));
            }
        }
        all
    }

    /// Does what can be done without waiting.
    pub fn turn(&mut self, events: &[(Source, PollFlags)]) -> Result<(), Error> {
        for (source, flags) in events {
            let readable = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
            match source {
                Source::Link if readable => self.hear()?,
                Source::Messenger if readable => self.forward()?,
                Source::Keys if readable => self.let_ask(),
                Source::Stream(number) if !flags.is_empty() => self.carry(*number, *flags),
                Source::Link | Source::Messenger | Source::Keys | Source::Stream(_) => {}
            }
        }
        self.flush()
    }

    fn hear(&mut self) -> Result<(), Error> {
        // A port gives a page at a time, however much waits.
        for _ in 0..READS_AT_ONCE {
            match read(&self.link, &mut self.piece) {
                Ok(0) => return Err(Error::Gone),
                Ok(length) => self.arrived.extend_from_slice(&self.piece[..length]),
                Err(Errno::INTR | Errno::AGAIN) => break,
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Error::Gone),
                Err(error) => return Err(Error::Io(error.into())),
            }
            if self.arrived.len() >= self.piece.len() {
                break;
            }
        }
        let mut done = 0;
        while let Some((frame, length)) = Frame::read(&self.arrived[done..]).map_err(|_| Error::Broken)? {
            done += length;
            self.take(frame)?;
        }
        self.arrived.drain(..done);
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Data { stream: number, bytes } => {
                // What was under way when a stream was dropped is dropped, too.
                let Some(stream) = self.streams.get_mut(&number).filter(|stream| stream.back) else { return Ok(()) };
                let most = if stream.end == End::Kept { MAX_KEPT_BYTES } else { WINDOW_BYTES };
                if stream.is_ending || stream.pending.len() + bytes.len() > most {
                    return Err(Error::Broken);
                }
                if stream.end == End::Kept {
                    send(&mut self.outbox, &Frame::Credit { stream: number, bytes: bytes.len() as u32 });
                }
                stream.pending.extend(bytes);
                self.settle(number);
            }
            Frame::End { stream: number } => {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.is_ending = true;
                }
                self.settle(number);
            }
            Frame::Closed { stream: number } => {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.out = false;
                }
                self.settle(number);
            }
            Frame::Credit { stream: number, bytes } => {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.may_send = (stream.may_send + bytes as usize).min(WINDOW_BYTES);
                }
            }
            Frame::Message { stream, bytes } => self.deliver(stream, &bytes)?,
            Frame::Keys { stream } => self.hand_on(stream)?,
            frame @ (Frame::Hello { .. }
            | Frame::Signal { .. }
            | Frame::Window { .. }
            | Frame::Awake { .. }
            | Frame::Started
            | Frame::Stopped
            | Frame::Report(_)) => self.frames.push_back(frame),
        }
        Ok(())
    }

    fn carry(&mut self, number: u32, flags: PollFlags) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let before = (stream.pending.len(), stream.may_send, stream.out);
        if stream.back && !stream.pending.is_empty() && flags.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR) {
            stream.write(number, &mut self.outbox);
        }
        if stream.out && stream.may_send > 0 && flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            stream.read(number, &mut self.outbox);
        }
        self.moved += u64::from(number >= FIRST_FREE && before != (stream.pending.len(), stream.may_send, stream.out));
        self.settle(number);
    }

    /// Passes an end on once everything before it was written, and drops a stream that goes neither way.
    fn settle(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.back && stream.is_ending && stream.pending.is_empty() && stream.fd.is_some() {
            stream.back = false;
            // A terminal that is hung up is so in both directions.
            stream.out &= stream.end != End::Terminal;
            if let Some(fd) = stream.fd.as_ref().filter(|_| stream.end == End::Own) {
                // Only a socket has halves.
                let _ = shutdown(fd, Shutdown::Write);
            }
        }
        if stream.fd.is_some() && !stream.out && !stream.back {
            self.streams.remove(&number);
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        while !self.outbox.is_empty() {
            let (first, _) = self.outbox.as_slices();
            match write(&self.link, &first[..first.len().min(MAX_PAYLOAD_BYTES)]) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(length) => drop(self.outbox.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Gone),
                Err(error) => return Err(Error::Io(error.into())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, poll};
    use rustix::fs::Timespec;
    use rustix::net::SocketType;
    use rustix::pipe::pipe;

    use super::*;
    use crate::launch::host::system::pair;

    pub fn linked() -> (Mux, Mux) {
        let (one, other) = pair(SocketType::STREAM).expect("a socket pair needs nothing");
        rustix::io::ioctl_fionbio(&one, true).expect("set");
        rustix::io::ioctl_fionbio(&other, true).expect("set");
        (Mux::new(one, Side::Host), Mux::new(other, Side::Guest))
    }

    /// Turns both sides until neither has anything to do for a while.
    pub fn run(muxes: [&mut Mux; 2]) -> Result<(), Error> {
        let [one, other] = muxes;
        let mut idle = 0;
        while idle < 5 {
            idle += 1;
            for mux in [&mut *one, &mut *other] {
                let interest = mux.interest();
                let mut fds: Vec<PollFd<'_>> = interest.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
                let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).expect("polled");
                let events: Vec<(Source, PollFlags)> =
                    interest.iter().zip(&fds).map(|((source, ..), fd)| (*source, fd.revents())).collect();
                if ready > 0 {
                    idle = 0;
                }
                mux.turn(&events)?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_stream_arrives_whole_and_ends() {
        let (mut host, mut guest) = linked();
        let (from, to) = pipe().expect("a pipe");
        let (out, into) = pipe().expect("a pipe");
        host.add(1, Some(from), End::Shared, Ways::OUT);
        guest.add(1, Some(into), End::Own, Ways::BACK);
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        let wanted = sent.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut rest = &sent[..];
                while !rest.is_empty() {
                    rest = &rest[write(&to, rest).expect("taken")..];
                }
            });
            let reader = scope.spawn(move || {
                let mut got = Vec::new();
                let mut piece = [0; 7000];
                loop {
                    match read(&out, &mut piece).expect("read") {
                        0 => return got,
                        length => got.extend_from_slice(&piece[..length]),
                    }
                }
            });
            while host.has(1) || guest.has(1) {
                run([&mut host, &mut guest]).expect("both are honest");
            }
            assert!(reader.join().expect("it reads to the end") == wanted);
        });
    }

    #[test]
    fn who_does_not_read_gets_a_window_and_no_more() {
        let (mut host, mut guest) = linked();
        let (from, to) = pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&to, true).expect("set");
        host.add(1, Some(from), End::Shared, Ways::OUT);
        guest.add(1, None, End::Own, Ways::BACK);
        let mut taken = 0;
        for _ in 0..64 {
            while let Ok(length) = write(&to, &[7; 4096]) {
                taken += length;
            }
            run([&mut host, &mut guest]).expect("both are honest");
        }
        // The window, and what a pipe holds.
        assert!(taken <= WINDOW_BYTES + (1 << 20), "{taken}");
        assert_eq!(guest.streams[&1].pending.len(), WINDOW_BYTES);
        drop(to);
    }

    #[test]
    fn who_sends_more_than_was_taken_is_not_heard() {
        let (mut host, mut guest) = linked();
        host.add(2, None, End::Own, Ways::BACK);
        for _ in 0..=WINDOW_BYTES / MAX_PAYLOAD_BYTES {
            guest.send(&Frame::Data { stream: 2, bytes: vec![1; MAX_PAYLOAD_BYTES] });
        }
        assert!(matches!(run([&mut host, &mut guest]), Err(Error::Broken)));
    }

    #[test]
    fn a_reader_that_is_gone_is_told() {
        let (mut host, mut guest) = linked();
        let (out, into) = pipe().expect("a pipe");
        let (from, to) = pipe().expect("a pipe");
        host.add(2, Some(into), End::Shared, Ways::BACK);
        guest.add(2, Some(from), End::Own, Ways::OUT);
        drop(out);
        write(&to, b"unheard").expect("taken");
        run([&mut host, &mut guest]).expect("both are honest");
        assert!(!guest.has(2), "the pipe inside is closed, and its writer hears of it");
    }
}
