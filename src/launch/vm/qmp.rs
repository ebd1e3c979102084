//! QMP commands to QEMU: saving and restoring the state of a VM.
//!
//! Commands and answers are JSON, one per line. Events come between them, and so do QEMU's error messages in plain text, because the socket
//! is its standard error, the one descriptor left. A compromised QEMU may send anything. So the size of lines, messages and events is
//! limited, a command has one deadline, and no call blocks without listening for signals.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::{Errno, read, write};
use serde_json::{Value, json};

use crate::host::system::Signals;

/// Time limit for one command including its answer; a quiet host needs 0.1 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// Interval between queries of a save's progress.
const LOOK: Duration = Duration::from_millis(20);
/// Most bytes kept of plain text messages.
const MAX_WORDS_BYTES: usize = 16 << 10;
/// Longest line accepted; QEMU's own lines have some hundred bytes.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Most lines before an answer.
const MAX_LINES: usize = 1024;

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU returned an error.
    #[error("QEMU refused {command}: {error}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's message.
        error: String,
    },
    /// The answer is invalid.
    #[error("QEMU's answer is invalid or longer than {MAX_LINE_BYTES} bytes")]
    Malformed,
    /// QEMU closed its end.
    #[error("QEMU ended before it answered")]
    Ended,
    /// QEMU did not answer in time.
    #[error("QEMU did not answer within {} seconds", PATIENCE.as_secs())]
    Late,
    /// The user interrupted the command.
    #[error("interrupted by signal {signal}")]
    Interrupted {
        /// The signal.
        signal: i32,
    },
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A QMP connection to QEMU.
pub struct Qmp {
    socket: OwnedFd,
    arrived: Vec<u8>,
    words: Vec<u8>,
}

impl Qmp {
    /// Takes the other end of QEMU's standard error.
    pub fn new(socket: OwnedFd) -> io::Result<Qmp> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Qmp { socket, arrived: Vec::new(), words: Vec::new() })
    }

    /// Returns QEMU's plain text messages.
    pub fn words(&self) -> &[u8] {
        &self.words
    }

    /// Negotiates capabilities: memory in a file is excluded from a saved state.
    pub fn begin(&mut self, signals: &Signals) -> Result<(), Error> {
        let turn = &mut CommandLimit::new(signals);
        // QEMU sends a greeting first.
        self.value(turn)?;
        self.ask(&json!({ "execute": "qmp_capabilities" }), turn)?;
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.ask(&json!({ "execute": "migrate-set-capabilities", "arguments": { "capabilities": capabilities } }), turn).map(drop)
    }

    /// Restores a waiting VM from a saved state.
    pub fn restore(&mut self, path: &str, signals: &Signals) -> Result<(), Error> {
        let command = json!({ "execute": "migrate-incoming", "arguments": { "uri": format!("file:{path}") } });
        self.ask(&command, &mut CommandLimit::new(signals)).map(drop)
    }

    /// Saves a VM's state, and leaves the VM paused.
    pub fn save(&mut self, path: &str, signals: &Signals) -> Result<(), Error> {
        let turn = &mut CommandLimit::new(signals);
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
                _ => turn.pause()?,
            }
        }
    }

    fn ask(&mut self, command: &Value, turn: &mut CommandLimit<'_>) -> Result<Value, Error> {
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

    /// Returns the next line of JSON, and keeps other lines as messages.
    fn value(&mut self, turn: &mut CommandLimit<'_>) -> Result<Value, Error> {
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

/// The time limit for one command, with a check for signals.
struct CommandLimit<'a> {
    signals: &'a Signals,
    until: Instant,
    lines: usize,
}

impl CommandLimit<'_> {
    fn new(signals: &Signals) -> CommandLimit<'_> {
        CommandLimit { signals, until: Instant::now() + PATIENCE, lines: 0 }
    }

    fn check(&self) -> Result<(), Error> {
        if Instant::now() >= self.until { Err(Error::Late) } else { Ok(()) }
    }

    /// Waits until the socket is ready.
    fn wait(&self, socket: &OwnedFd, flags: PollFlags) -> Result<(), Error> {
        self.poll(Some((socket, flags)), self.until.saturating_duration_since(Instant::now()))?;
        self.check()
    }

    /// Waits for one interval.
    fn pause(&self) -> Result<(), Error> {
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

    /// The behaviour after the greeting.
    #[derive(Clone, Copy)]
    enum Then {
        Again(&'static [u8]),
        Nothing,
        End,
    }

    /// Begins with a peer that greets, behaves as `then` says, and reads nothing.
    fn begin_with(greeting: &'static [u8], then: Then) -> (Result<(), Error>, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let speaking = Builder::new().spawn(move || {
            let mut said = theirs.write_all(greeting);
            while let Then::Again(words) = then
                && said.is_ok()
            {
                said = theirs.write_all(words);
            }
            // The peer's end stays open until this one is closed.
            matches!(then, Then::Nothing).then_some(theirs)
        });
        let signals = Signals::take_over().expect("taken over");
        let mut control = Qmp::new(ours.into()).expect("a socket");
        let begun = control.begin(&signals);
        let words = control.words().to_vec();
        drop(control);
        drop(speaking.expect("a thread").join().expect("it ends"));
        (begun, words)
    }

    #[test]
    fn a_process_in_qemus_place_is_read_for_a_bounded_time() {
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
