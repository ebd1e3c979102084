//! Commands to QEMU about a machine as a whole, over QMP: save its state, restore from one.
//!
//! Commands and answers are JSON, a line each. Between them come events, and QEMU's messages in plain text when something
//! is wrong: the way is its standard error, the one descriptor that it has left. What is in QEMU's place may say anything,
//! so lines, words and events are bounded, a command has one deadline however much is said meanwhile, and no call waits
//! where a signal could not be heard.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::{Errno, read, write};
use serde_json::{Value, json};

use crate::launch::host::system::Signals;

/// How long one command may take, its answer included; a quiet host needs a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at how far a save is.
const LOOK: Duration = Duration::from_millis(20);
/// Most that is kept of plain words.
const MAX_WORDS_BYTES: usize = 16 << 10;
/// The longest line that is read; QEMU's own have some hundred bytes.
const MAX_LINE_BYTES: usize = 64 << 10;
/// The most lines until an answer.
const MAX_LINES: usize = 1024;

/// Why QEMU did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It said no.
    #[error("QEMU refused {command}: {error}")]
    Refused {
        /// The command.
        command: String,
        /// Its own words.
        error: String,
    },
    /// It said what is no answer.
    #[error("QEMU's answer is longer than {MAX_LINE_BYTES} bytes, or is none")]
    Malformed,
    /// It has closed its end.
    #[error("QEMU ended before it answered")]
    Ended,
    /// It said nothing for too long.
    #[error("QEMU did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    /// The user wanted to stop meanwhile.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// The signal.
        signal: i32,
    },
    /// A call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A conversation with QEMU.
pub struct Control {
    socket: OwnedFd,
    arrived: Vec<u8>,
    words: Vec<u8>,
}

impl Control {
    /// Takes the other end of QEMU's standard error.
    pub fn new(socket: OwnedFd) -> io::Result<Control> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Control { socket, arrived: Vec::new(), words: Vec::new() })
    }

    /// What QEMU said in plain words.
    pub fn words(&self) -> &[u8] {
        &self.words
    }

    /// Begins: memory that is in a file is not part of a state.
    pub fn begin(&mut self, signals: &Signals) -> Result<(), Error> {
        let turn = &mut Turn::new(signals);
        // It greets first.
        self.value(turn)?;
        self.ask(&json!({ "execute": "qmp_capabilities" }), turn)?;
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.ask(&json!({ "execute": "migrate-set-capabilities", "arguments": { "capabilities": capabilities } }), turn).map(drop)
    }

    /// Lets a machine that waits for it go on from a state.
    pub fn restore(&mut self, path: &str, signals: &Signals) -> Result<(), Error> {
        let command = json!({ "execute": "migrate-incoming", "arguments": { "uri": format!("file:{path}") } });
        self.ask(&command, &mut Turn::new(signals)).map(drop)
    }

    /// Saves a machine's state, and leaves it standing still.
    pub fn save(&mut self, path: &str, signals: &Signals) -> Result<(), Error> {
        let turn = &mut Turn::new(signals);
        self.ask(&json!({ "execute": "migrate", "arguments": { "uri": format!("file:{path}") } }), turn)?;
        loop {
            let command = json!({ "execute": "query-migrate" });
            turn.lines = 0;
            let answer = self.ask(&command, turn)?;
            match answer["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    return Err(Error::Refused { command: command.to_string(), error: answer.to_string() });
                }
                _ => turn.rest()?,
            }
        }
    }

    fn ask(&mut self, command: &Value, turn: &mut Turn<'_>) -> Result<Value, Error> {
        let text = format!("{command}\n");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match write(&self.socket, rest) {
                Ok(length) => rest = &rest[length..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => turn.wait(&self.socket, PollFlags::OUT)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Error::Ended),
                Err(error) => return Err(Error::Io(error.into())),
            }
        }
        loop {
            let mut answer = self.value(turn)?;
            if let Some(error) = answer.get("error") {
                return Err(Error::Refused { command: command.to_string(), error: error.to_string() });
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    /// Returns the next line that is JSON, and keeps the others as words.
    fn value(&mut self, turn: &mut Turn<'_>) -> Result<Value, Error> {
        loop {
            while let Some(end) = self.arrived.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.arrived.drain(..=end).collect();
                turn.lines += 1;
                if turn.lines > MAX_LINES {
                    return Err(Error::Malformed);
                }
                match serde_json::from_slice(&line) {
                    Ok(value) => return Ok(value),
                    Err(_) if self.words.len() + line.len() <= MAX_WORDS_BYTES => self.words.extend(line),
                    Err(_) => return Err(Error::Malformed),
                }
            }
            if self.arrived.len() >= MAX_LINE_BYTES {
                return Err(Error::Malformed);
            }
            let mut piece = [0; 4096];
            match read(&self.socket, &mut piece) {
                Ok(0) => return Err(Error::Ended),
                Ok(length) => self.arrived.extend_from_slice(&piece[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => turn.wait(&self.socket, PollFlags::IN)?,
                Err(Errno::CONNRESET) => return Err(Error::Ended),
                Err(error) => return Err(Error::Io(error.into())),
            }
            turn.check()?;
        }
    }
}

/// The time for one command, in which signals are heard.
struct Turn<'a> {
    signals: &'a Signals,
    until: Instant,
    lines: usize,
}

impl Turn<'_> {
    fn new(signals: &Signals) -> Turn<'_> {
        Turn { signals, until: Instant::now() + PATIENCE, lines: 0 }
    }

    fn check(&self) -> Result<(), Error> {
        if Instant::now() >= self.until { Err(Error::Late) } else { Ok(()) }
    }

    /// Waits until something can be done with the socket.
    fn wait(&self, socket: &OwnedFd, flags: PollFlags) -> Result<(), Error> {
        self.poll(Some((socket, flags)), self.until.saturating_duration_since(Instant::now()))?;
        self.check()
    }

    /// Waits for a while.
    fn rest(&self) -> Result<(), Error> {
        self.poll(None, LOOK)?;
        self.check()
    }

    fn poll(&self, socket: Option<(&OwnedFd, PollFlags)>, most: Duration) -> Result<(), Error> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.arriving(), PollFlags::IN)];
        fds.extend(socket.map(|(socket, flags)| PollFd::new(socket, flags)));
        let most = Timespec { tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(most.subsec_nanos()) };
        match poll(&mut fds, Some(&most)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Io(error.into())),
        }
        if !fds[0].revents().is_empty()
            && let Some(signal) = self.signals.asks_for_an_end()
        {
            return Err(Error::Interrupted { signal });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread::Builder;

    use super::*;

    /// What comes behind the greeting.
    #[derive(Clone, Copy)]
    enum Then {
        Again(&'static [u8]),
        Nothing,
        End,
    }

    /// Begins with something that greets, goes on, and reads nothing.
    fn begin_with(greeting: &'static [u8], then: Then) -> (Result<(), Error>, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let speaking = Builder::new().spawn(move || {
            let mut said = theirs.write_all(greeting);
            while let Then::Again(words) = then
                && said.is_ok()
            {
                said = theirs.write_all(words);
            }
            // Its end stays open until this one is closed.
            matches!(then, Then::Nothing).then_some(theirs)
        });
        let signals = Signals::take_over().expect("taken over");
        let mut control = Control::new(ours.into()).expect("a socket");
        let begun = control.begin(&signals);
        let words = control.words().to_vec();
        drop(control);
        drop(speaking.expect("a thread").join().expect("it ends"));
        (begun, words)
    }

    #[test]
    fn what_is_in_qemus_place_is_not_listened_to_for_ever() {
        let (begun, words) =
            begin_with(b"cannot do it\n{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"X\"}\n{\"return\":{}}\n", Then::Nothing);
        assert!(begun.is_ok() && words == b"cannot do it\n", "{begun:?}");
        for (greeting, again) in [
            (&b"{\"QMP\":{}}\n"[..], &b"{\"event\":\"X\"}\n"[..]),
            (b"", b"words\n"),
            (b"", b"a line without an end"),
            (b"{\"QMP\":{}}\n", b"words and words and words\n"),
        ] {
            let (begun, words) = begin_with(greeting, Then::Again(again));
            assert!(matches!(begun, Err(Error::Malformed)) && words.len() <= MAX_WORDS_BYTES, "{begun:?}");
        }
        assert!(matches!(begin_with(b"{\"QMP\":{}}\n{\"error\":{\"desc\":\"no\"}}\n", Then::Nothing).0, Err(Error::Refused { .. })));
        assert!(matches!(begin_with(b"{\"QMP\":{}}\n", Then::End).0, Err(Error::Ended)));
    }
}
