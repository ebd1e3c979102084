//! Silo's side of a running broker: its messages and its end.
//!
//! The broker runs in a separate process and parses input from hostile programs and servers. So silo treats its messages as untrusted data:
//! they are datagrams of limited size, and one run accepts a limited number of lines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::system::{BackgroundTask, SENDING};
use crate::broker::network_log::{Entry, Record};
use crate::broker::{MAX_LINES, Say};
use silo_base::grant::HostGrant;

/// Largest message.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// Most messages handled per turn, so that other events get their turn.
const MAX_TURN: usize = 64;
/// Time limit for the broker to end. It may spend five seconds on delivering the sandbox's last writes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The kinds of messages from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line for the user.
    Line,
    /// A `name:port` that was reached in learning mode.
    Learned,
    /// An entry of the run's record.
    Entry,
    /// The limit of data is reached.
    Exceeded,
}

const LETTERS: [(Kind, u8); 4] = [(Kind::Line, b'T'), (Kind::Learned, b'L'), (Kind::Entry, b'R'), (Kind::Exceeded, b'X')];

/// The receivers of the broker's messages.
pub struct Receivers {
    /// Receives lines for the user.
    pub tell: Say,
    /// Receives learned names.
    pub learned: Option<Say>,
    /// Receives the record's entries.
    pub record: Option<Record>,
}

/// A running broker. Dropping it ends the broker, after it has delivered the sandbox's last writes.
pub struct BrokerSession {
    link: OwnedFd,
    apart: BackgroundTask,
    ears: Receivers,
    lines: usize,
    is_exceeded: bool,
}

/// Sends one message from the broker. A message without a receiver is lost; one that is too long is truncated.
pub fn send_message(link: BorrowedFd<'_>, kind: Kind, text: &str) {
    let letter = LETTERS.iter().find(|(one, _)| *one == kind).map_or(b'T', |(_, letter)| *letter);
    let end = (0..=text.len().min(MAX_MESSAGE_BYTES - 1)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let message = [&[letter], &text.as_bytes()[..end]].concat();
    loop {
        match send(link, &message, SENDING) {
            Err(Errno::INTR) => {}
            // Silo is busy, or it is stopped together with the sandbox: wait, so that no message is lost.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(link, PollFlags::OUT)], None)),
            _ => return,
        }
    }
}

/// Parses a message.
fn parse(message: &[u8]) -> Option<(Kind, &str)> {
    let (first, text) = message.split_first()?;
    let (kind, _) = LETTERS.iter().find(|(_, letter)| letter == first)?;
    Some((*kind, std::str::from_utf8(text).ok()?))
}

impl Receivers {
    fn dispatch(&self, kind: Kind, text: &str) {
        match kind {
            Kind::Line => (self.tell)(text),
            Kind::Learned => {
                if let Some(learned) = self.learned.as_ref().filter(|_| HostGrant::parse(text).is_some()) {
                    learned(text);
                }
            }
            Kind::Entry => {
                if let (Some(record), Ok(entry)) = (&self.record, serde_json::from_str::<Entry>(text)) {
                    record.note(&entry);
                }
            }
            Kind::Exceeded => {}
        }
    }
}

impl BrokerSession {
    /// Takes over a broker process and silo's end of its link.
    pub fn new(link: OwnedFd, apart: BackgroundTask, ears: Receivers) -> BrokerSession {
        BrokerSession { link, apart, ears, lines: 0, is_exceeded: false }
    }

    /// True if the limit of data is reached.
    pub fn is_exceeded(&self) -> bool {
        self.is_exceeded
    }

    /// Returns the file descriptor to poll for messages.
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Handles pending messages; returns false if the broker has ended. An unexpected end is reported once: from then on the run has no
    /// network.
    pub fn listen(&mut self) -> bool {
        for _ in 0..MAX_TURN {
            match self.take() {
                Ok(true) => {}
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Ok(false) | Err(_) => {
                    if let Some(how) = self.apart.wait() {
                        (self.ears.tell)(&format!("this run has no network any more: its broker {how}"));
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Handles one message; `false` at the end of them.
    fn take(&mut self) -> rustix::io::Result<bool> {
        let mut message = [0; MAX_MESSAGE_BYTES];
        let (length, _) = recv(&self.link, &mut message[..], RecvFlags::DONTWAIT)?;
        if length == 0 {
            return Ok(false);
        }
        let Some((kind, text)) = parse(&message[..length]) else { return Ok(true) };
        if kind == Kind::Line {
            self.lines += 1;
            // Two lines may follow the last one: the note that further lines are omitted, and the one about refused connections.
            if self.lines > MAX_LINES + 2 {
                return Ok(true);
            }
        }
        self.is_exceeded |= kind == Kind::Exceeded;
        let plain: String = text.chars().filter(|letter| !letter.is_control()).collect();
        self.ears.dispatch(kind, &plain);
        Ok(true)
    }

    /// Handles the remaining messages after the sandbox has ended.
    fn hear_out(&mut self) -> io::Result<()> {
        // Signals the end to the broker: some systems need the message, others the shutdown. A broker that is gone gets neither.
        let _ = send(&self.link, b"E", SENDING | SendFlags::DONTWAIT);
        let _ = shutdown(&self.link, Shutdown::Write);
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let span = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&self.link, PollFlags::IN)], Some(&span)) {
                Ok(0) | Err(Errno::INTR) => continue,
                polled => polled?,
            };
            match self.take() {
                Ok(true) | Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(false) | Err(_) => return Ok(()),
            }
        }
    }
}

impl Drop for BrokerSession {
    fn drop(&mut self) {
        match self.hear_out() {
            // Its exit status no longer matters.
            Ok(()) => drop(self.apart.wait()),
            // The time limit has passed.
            Err(_) => self.apart.kill(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::system::{MESSAGES, pair};
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_what_is_nothing_is_not() {
        let (ours, theirs) = pair(MESSAGES).expect("a pair");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = |name: &'static str| -> Say {
            let heard = Arc::clone(&heard);
            Box::new(move |text| heard.lock().expect("not poisoned").push(format!("{name} {text}")))
        };
        let ears = Receivers { tell: into("line"), learned: Some(into("learned")), record: Some(Record::new(into("entry"))) };
        let apart = BackgroundTask::none();
        let mut serving = BrokerSession::new(ours, apart, ears);
        send_message(theirs.as_fd(), Kind::Line, "one\u{1b}[1m\nline");
        send_message(theirs.as_fd(), Kind::Learned, "a.example:443");
        send_message(theirs.as_fd(), Kind::Learned, "no grant");
        send_message(theirs.as_fd(), Kind::Entry, "{\"name\":\"a.example\",\"port\":443,\"verdict\":\"reached\"}");
        send_message(theirs.as_fd(), Kind::Entry, "{\"name\":\"a.example\",\"other\":1}");
        send_message(theirs.as_fd(), Kind::Line, &"é".repeat(MAX_MESSAGE_BYTES));
        for odd in [&b"Z"[..], b"T\xff", b"R", &[0; 4096]] {
            send(&theirs, odd, SENDING).expect("sent");
        }
        assert!(serving.listen());
        let heard_then = std::mem::take(&mut *heard.lock().expect("not poisoned"));
        let entry = "entry {\"name\":\"a.example\",\"port\":443,\"verdict\":\"reached\",\"sent\":0,\"received\":0}";
        assert_eq!(heard_then[..3], ["line one[1mline", "learned a.example:443", entry]);
        assert!(heard_then.len() == 4 && heard_then[3].starts_with("line éé"), "{heard_then:?}");
        // The number of lines is limited.
        for _ in 0..1000 {
            send_message(theirs.as_fd(), Kind::Line, "x");
            assert!(serving.listen());
        }
        assert_eq!(heard.lock().expect("not poisoned").len(), MAX_LINES);
    }
}
