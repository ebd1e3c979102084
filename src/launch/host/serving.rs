//! The broker at work, seen from silo: what it tells, and its end.
//!
//! The broker is apart from silo, and reads what hostile programs and servers send. So silo believes nothing of what it
//! tells without reading it as data: messages are kept apart, bounded, and as many as one run may need.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::system::{Apart, SENDING};
use crate::broker::record::{Entry, Record};
use crate::broker::{MAX_LINES, Say};
use crate::grant::Grant;

/// The longest message.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// The most messages taken in one turn, so that other things have theirs.
const MAX_TURN: usize = 64;
/// How long the broker may take to end: what the sandbox wrote last may be carried out for five seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What kinds of things it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line for the user.
    Line,
    /// A `name:port` that was reached while everything is learned.
    Learned,
    /// An entry of the run's record.
    Entry,
}

const LETTERS: [(Kind, u8); 3] = [(Kind::Line, b'T'), (Kind::Learned, b'L'), (Kind::Entry, b'R')];

/// Who takes what it tells.
pub struct Ears {
    /// Takes lines for the user.
    pub tell: Say,
    /// Takes what is learned.
    pub learned: Option<Say>,
    /// Takes the entries.
    pub record: Option<Record>,
}

/// A broker at work; ended when dropped, after what the sandbox wrote last was carried out.
pub struct Serving {
    link: OwnedFd,
    apart: Apart,
    ears: Ears,
    lines: usize,
}

/// Sends one thing from the broker's side; one that nobody takes any more is lost, and so is the end of one that is too long.
pub fn say(link: BorrowedFd<'_>, kind: Kind, text: &str) {
    let letter = LETTERS.iter().find(|(one, _)| *one == kind).map_or(b'T', |(_, letter)| *letter);
    let end = (0..=text.len().min(MAX_MESSAGE_BYTES - 1)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let message = [&[letter], &text.as_bytes()[..end]].concat();
    loop {
        match send(link, &message, SENDING) {
            Err(Errno::INTR) => {}
            // Silo has other things to do, or is stopped, and then so is what it runs: nothing is lost.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(link, PollFlags::OUT)], None)),
            _ => return,
        }
    }
}

/// Reads what was sent.
fn parse(message: &[u8]) -> Option<(Kind, &str)> {
    let (first, text) = message.split_first()?;
    let (kind, _) = LETTERS.iter().find(|(_, letter)| letter == first)?;
    Some((*kind, std::str::from_utf8(text).ok()?))
}

impl Ears {
    fn hear(&self, kind: Kind, text: &str) {
        match kind {
            Kind::Line => (self.tell)(text),
            Kind::Learned => {
                if let Some(learned) = self.learned.as_ref().filter(|_| Grant::parse(text).is_some()) {
                    learned(text);
                }
            }
            Kind::Entry => {
                if let (Some(record), Ok(entry)) = (&self.record, serde_json::from_str::<Entry>(text)) {
                    record.note(&entry);
                }
            }
        }
    }
}

impl Serving {
    /// Takes charge of a broker, and of silo's end of its link.
    pub fn new(link: OwnedFd, apart: Apart, ears: Ears) -> Serving {
        Serving { link, apart, ears, lines: 0 }
    }

    /// Returns what is readable when there is something to hear.
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Hears what there is; returns whether the broker is still at work. One that ended by itself, though it should not have,
    /// is told once: from there on nothing is reached any more.
    pub fn listen(&mut self) -> bool {
        for _ in 0..MAX_TURN {
            match self.take() {
                Ok(true) => {}
                Err(Errno::AGAIN | Errno::INTR) => return true,
                Ok(false) | Err(_) => {
                    if let Some(how) = self.apart.wait() {
                        (self.ears.tell)(&format!("the network of this run is gone: its broker {how}"));
                    }
                    return false;
                }
            }
        }
        true
    }

    /// Takes one message; `false` at the end of them.
    fn take(&mut self) -> rustix::io::Result<bool> {
        let mut message = [0; MAX_MESSAGE_BYTES];
        let (length, _) = recv(&self.link, &mut message[..], RecvFlags::DONTWAIT)?;
        if length == 0 {
            return Ok(false);
        }
        let Some((kind, text)) = parse(&message[..length]) else { return Ok(true) };
        if kind == Kind::Line {
            self.lines += 1;
            // The line that says that there are more, and the one about refused connections, come after the last.
            if self.lines > MAX_LINES + 2 {
                return Ok(true);
            }
        }
        let plain: String = text.chars().filter(|letter| !letter.is_control()).collect();
        self.ears.hear(kind, &plain);
        Ok(true)
    }

    /// Hears it out after its sandbox has ended.
    fn hear_out(&mut self) -> io::Result<()> {
        // One of both says it, on each system; a broker that is gone hears neither.
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

impl Drop for Serving {
    fn drop(&mut self) {
        match self.hear_out() {
            // How it ended does not matter any more.
            Ok(()) => drop(self.apart.wait()),
            // One that does not end in time is ended.
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
        let ears = Ears { tell: into("line"), learned: Some(into("learned")), record: Some(Record::new(into("entry"))) };
        let apart = Apart::none();
        let mut serving = Serving::new(ours, apart, ears);
        say(theirs.as_fd(), Kind::Line, "one\u{1b}[1m\nline");
        say(theirs.as_fd(), Kind::Learned, "a.example:443");
        say(theirs.as_fd(), Kind::Learned, "no grant");
        say(theirs.as_fd(), Kind::Entry, "{\"name\":\"a.example\",\"port\":443,\"verdict\":\"reached\"}");
        say(theirs.as_fd(), Kind::Entry, "{\"name\":\"a.example\",\"other\":1}");
        say(theirs.as_fd(), Kind::Line, &"é".repeat(MAX_MESSAGE_BYTES));
        for odd in [&b"X"[..], b"T\xff", b"R", &[0; 4096]] {
            send(&theirs, odd, SENDING).expect("sent");
        }
        assert!(serving.listen());
        let heard_then = std::mem::take(&mut *heard.lock().expect("not poisoned"));
        let entry = "entry {\"name\":\"a.example\",\"port\":443,\"verdict\":\"reached\",\"sent\":0,\"received\":0}";
        assert_eq!(heard_then[..3], ["line one[1mline", "learned a.example:443", entry]);
        assert!(heard_then.len() == 4 && heard_then[3].starts_with("line éé"), "{heard_then:?}");
        // However much is told, there is an end of it.
        for _ in 0..1000 {
            say(theirs.as_fd(), Kind::Line, "x");
            assert!(serving.listen());
        }
        assert_eq!(heard.lock().expect("not poisoned").len(), MAX_LINES);
    }
}
