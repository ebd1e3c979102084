//! A conversation with its descriptors, on either side of a link: copies data between descriptors and the link. No call blocks.
//!
//! A *messenger* is a message-oriented socket: in the guest its peer is the network agent, on the host the broker. A connection that the
//! agent passes becomes a stream, and on the host a connection again. Clients of the user's ssh agent are forwarded in the same way.

mod endpoint;

mod fd_passing;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::{Errno, read, write};
use rustix::net::{Shutdown, shutdown};
use silo_wire::frame::Frame;

use super::protocol::{Action, DescriptorAction, Phase};

pub use endpoint::{Error, Mux, Source, SshAgentSocket};

/// Most reads of the link before the received data is handled.
const READS_AT_ONCE: usize = 16;
/// Time limit for the broker to accept a message before it counts as gone; no other frame is handled during the wait.
const BROKER_PATIENCE: Duration = Duration::from_secs(10);

impl Mux {
    /// True if a terminal must be polled again later: no event reports that a process opens it.
    pub fn is_deserted(&self) -> bool {
        !self.deserted.is_empty()
    }

    /// Polls deserted terminals again.
    pub fn poll_deserted(&mut self) {
        self.deserted.clear();
    }

    /// Returns the time at which a message for the broker is given up.
    pub fn broker_deadline(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|(_, since)| *since + BROKER_PATIENCE)
    }

    /// Returns the descriptors to poll, with their events. A descriptor without events is left out: the kernel would report its hangup on
    /// every poll.
    pub fn interest(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::new();
        let mut put = |source, fd, read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            if !flags.is_empty() {
                all.push((source, fd, flags));
            }
        };
        let may_read = self.waiting.is_none() && self.conversation.room() > 0;
        put(Source::Link, self.link.as_fd(), may_read, !self.is_deaf && !self.conversation.is_flushed());
        let has_room = self.conversation.has_room();
        if let Some(messenger) = &self.messenger {
            put(Source::Messenger, messenger.as_fd(), has_room, self.waiting.is_some());
        }
        if let Some(SshAgentSocket::Listener(listener)) = &self.keys {
            put(Source::Keys, listener.as_fd(), has_room, false);
        }
        for (number, fd) in &self.fds {
            if !self.deserted.contains(number) {
                let (read, write) = (self.conversation.may_send(*number) > 0, !self.conversation.pending(*number).is_empty());
                put(Source::Stream(*number), fd.as_fd(), read, write);
            }
        }
        all
    }

    /// Does all work that does not block.
    pub fn turn(&mut self, events: &[(Source, PollFlags)]) -> Result<(), Error> {
        for (source, flags) in events {
            let readable = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
            match source {
                Source::Link if readable => self.read_link()?,
                Source::Messenger if readable => self.forward()?,
                Source::Keys if readable => self.let_ask(),
                Source::Stream(number) if !flags.is_empty() => self.copy_stream(*number, *flags),
                Source::Link | Source::Messenger | Source::Keys | Source::Stream(_) => {}
            }
        }
        if self.broker_deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            (self.messenger, self.waiting) = (None, None);
        }
        self.take()?;
        self.flush()?;
        // Parses the rest, which had to wait for space in the outbox.
        self.take()?;
        self.flush()
    }

    /// Reads the link.
    fn read_link(&mut self) -> Result<(), Error> {
        // A port returns one page per read.
        for _ in 0..READS_AT_ONCE {
            let room = self.conversation.room().min(self.piece.len());
            if room == 0 || self.waiting.is_some() {
                break;
            }
            match read(&self.link, &mut self.piece[..room]) {
                Ok(0) => return self.gone(),
                Ok(length) => self.conversation.arrive(&self.piece[..length]),
                Err(Errno::INTR | Errno::AGAIN) => break,
                Err(Errno::CONNRESET | Errno::PIPE) => return self.gone(),
                Err(error) => {
                    self.conversation.end();
                    return Err(Error::Io(error.into()));
                }
            }
        }
        Ok(())
    }

    /// Handles the data received before the link was closed, and ends the conversation.
    fn gone(&mut self) -> Result<(), Error> {
        self.is_deaf = true;
        self.conversation.drop_outbox();
        self.take()?;
        if self.conversation.phase() == Phase::Reported || self.waiting.is_some() {
            return Ok(());
        }
        self.conversation.end();
        self.fds.clear();
        Err(Error::Gone)
    }

    /// Performs received actions, as far as possible now.
    fn take(&mut self) -> Result<(), Error> {
        loop {
            let (act, since) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match self.conversation.next_act() {
                    Ok(Some(act)) => (act, Instant::now()),
                    Ok(None) => return Ok(()),
                    Err(violation) => {
                        self.fds.clear();
                        return Err(violation.into());
                    }
                },
            };
            if let Some(act) = self.perform(act)? {
                self.waiting = Some((act, since));
                return Ok(());
            }
        }
    }

    /// Performs one action; returns it if it would block.
    fn perform(&mut self, act: Action) -> Result<Option<Action>, Error> {
        match act {
            Action::Message { stream, bytes } => return self.deliver(stream, bytes),
            Action::Keys { stream } => self.pass_agent_client(stream)?,
            Action::Settle { stream, fate } => self.apply_to_descriptor(stream, fate),
            // One stop is enough: silo stops and continues once.
            Action::Tell(Frame::Stopped { .. }) if matches!(self.told.back(), Some(Frame::Stopped { .. })) => {}
            Action::Tell(frame) => {
                let is_report = matches!(frame, Frame::Report(_));
                self.told.push_back(frame);
                if is_report {
                    for number in self.conversation.numbers() {
                        let fate = self.conversation.apply_end(number);
                        self.apply_to_descriptor(number, fate);
                    }
                }
            }
        }
        Ok(None)
    }

    fn copy_stream(&mut self, number: u32, flags: PollFlags) {
        let Some(fd) = self.fds.get(&number) else { return };
        let hung = flags.intersects(PollFlags::HUP | PollFlags::ERR);
        let pending = self.conversation.pending(number);
        if !pending.is_empty() && (hung || flags.contains(PollFlags::OUT)) {
            let fate = match fd.write(pending) {
                Ok(length) => self.conversation.wrote(number, length),
                Err(Errno::INTR | Errno::AGAIN) => DescriptorAction::Stays,
                Err(_) => self.conversation.closed(number),
            };
            self.apply_to_descriptor(number, fate);
        }
        let most = self.conversation.may_send(number);
        let Some(fd) = self.fds.get(&number) else { return };
        if most > 0 && (hung || flags.contains(PollFlags::IN)) {
            let mut piece = vec![0; most];
            let fate = match fd.read(&mut piece) {
                Ok(length) if length > 0 => {
                    piece.truncate(length);
                    self.conversation.send_data(number, piece)
                }
                Err(Errno::INTR | Errno::AGAIN) => DescriptorAction::Stays,
                Err(Errno::IO) if self.conversation.is_terminal(number) => {
                    self.deserted.push(number);
                    DescriptorAction::Stays
                }
                Ok(_) | Err(_) => self.conversation.send_data(number, Vec::new()),
            };
            self.apply_to_descriptor(number, fate);
        }
    }

    fn apply_to_descriptor(&mut self, number: u32, fate: DescriptorAction) {
        match fate {
            DescriptorAction::Stays => {}
            DescriptorAction::HalfShut => {
                if let Some(fd) = self.fds.get(&number) {
                    // Only sockets have halves; the error is ignored for others.
                    let _ = shutdown(fd, Shutdown::Write);
                }
            }
            DescriptorAction::Gone => drop(self.fds.remove(&number)),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        while !self.is_deaf && !self.conversation.is_flushed() {
            match write(&self.link, self.conversation.outbox()) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Ok(length) => self.conversation.sent(length),
                Err(Errno::INTR) => {}
                // Data sent before is still to be read, and then the end of the link.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.is_deaf = true;
                    self.conversation.drop_outbox();
                }
                Err(error) => {
                    self.conversation.end();
                    return Err(Error::Io(error.into()));
                }
            }
        }
        if self.is_deaf {
            self.conversation.drop_outbox();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
