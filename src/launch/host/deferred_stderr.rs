//! Status lines of silo while a program runs, deferred while the program uses the whole screen.
//!
//! A line printed in between would corrupt the display of a program on the terminal's alternate screen (an editor, a pager). Such lines
//! wait until the program switches back or ends.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;

use super::nonblocking::{Direction, NonBlocking};
use super::stdio::{Streams, Target};
use crate::error::{Error, host};
use silo_base::sanitize;

/// Most deferred lines; further ones are dropped.
const MAX_HELD: usize = 100;
/// Most bytes queued for a slow reader; lines beyond that are lost.
const MAX_WAITING_BYTES: usize = 64 << 10;
/// Time limit at the end for writing the rest of the queue.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Terminal modes that switch to the alternate screen (ECMA-48 private modes, in xterm's numbers).
const OTHER_SCREEN: [u16; 3] = [47, 1047, 1049];

/// Most bytes kept of a program's output, counted from its end.
const MAX_HEARD_BYTES: usize = 64 << 10;

/// The last output to a terminal of the sandbox's own. One process launches one program.
static HEARD: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());

fn append(bytes: &[u8]) {
    let mut heard = HEARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    heard.extend(bytes);
    let over = heard.len().saturating_sub(MAX_HEARD_BYTES);
    heard.drain(..over);
}

/// Returns the last output to a terminal of the sandbox's own.
pub fn heard() -> Vec<u8> {
    HEARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).iter().copied().collect()
}

/// The destination of lines; shared by their producers and the reader of the program's output.
#[derive(Clone)]
pub struct DeferredStderr(Arc<Mutex<Board>>);

struct Board {
    errors: NonBlocking,
    end: &'static str,
    switches: Switches,
    held: Vec<String>,
    /// Bytes not written yet because the reader is slow. A producer of lines must not block.
    waiting: VecDeque<u8>,
}

impl DeferredStderr {
    /// Writes lines to the program's standard error.
    pub fn new(streams: &Streams) -> Result<DeferredStderr, Error> {
        let errors = match &streams.leads[2] {
            Target::To(log) => log.as_fd(),
            Target::Caller | Target::Terminal => rustix::stdio::stderr(),
        };
        // The caller's terminal may be in raw mode, which needs a carriage return.
        let end = if streams.on_terminal()[2] { "\r\n" } else { "\n" };
        let errors = host(NonBlocking::shared(errors, Direction::Write), "copying the log's descriptor")?;
        let (switches, held, waiting) = (Switches::default(), Vec::new(), VecDeque::new());
        Ok(DeferredStderr(Arc::new(Mutex::new(Board { errors, end, switches, held, waiting }))))
    }

    /// Prints a line, or defers it while the program is on the alternate screen.
    pub fn print_line(&self, line: &str) {
        let mut board = self.board();
        if !board.switches.is_other {
            board.write(line);
        } else if board.held.len() < MAX_HELD {
            board.held.push(line.to_owned());
        }
    }

    /// Tracks screen switches in the program's output.
    pub fn printed(&self, bytes: &[u8]) {
        append(bytes);
        let mut board = self.board();
        board.switches.read(bytes);
        if !board.switches.is_other {
            board.let_go();
        }
        board.flush();
    }

    /// Prints the deferred lines after the program's end.
    pub fn finish(&self) {
        self.board().let_go();
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Board {
    fn let_go(&mut self) {
        for line in std::mem::take(&mut self.held) {
            self.write(&line);
        }
    }

    fn write(&mut self, line: &str) {
        let line = format!("silo: {}{}", sanitize::line(line), self.end);
        // A line that does not fit in the queue is lost. The guest was answered nevertheless.
        if self.waiting.len() + line.len() <= MAX_WAITING_BYTES {
            self.waiting.extend(line.as_bytes());
        }
        self.flush();
    }

    /// Writes as much of the queue as the reader accepts without blocking.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match self.errors.write(self.waiting.make_contiguous()) {
                Ok(length) if length > 0 => drop(self.waiting.drain(..length)),
                _ => return,
            }
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.let_go();
        if !self.waiting.is_empty() {
            // Gives a slow reader one more chance.
            let _ = poll(&mut [PollFd::new(&self.errors, PollFlags::OUT)], Some(&PATIENCE));
            self.flush();
        }
    }
}

/// Tracks the screen of a program's output: `ESC [ ? modes h` switches to the alternate one, `l` instead of `h` switches back.
#[derive(Default)]
struct Switches {
    is_other: bool,
    state: State,
    found: bool,
    number: u16,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Escape,
    Bracket,
    Modes,
}

impl Switches {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Bracket,
                (State::Bracket, b'?') => {
                    (self.found, self.number) = (false, 0);
                    State::Modes
                }
                (State::Modes, b'0'..=b'9') => {
                    self.number = self.number.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                    State::Modes
                }
                (State::Modes, b';') => {
                    self.found |= OTHER_SCREEN.contains(&self.number);
                    self.number = 0;
                    State::Modes
                }
                (State::Modes, b'h' | b'l') => {
                    if self.found || OTHER_SCREEN.contains(&self.number) {
                        self.is_other = *byte == b'h';
                    }
                    State::Text
                }
                _ => State::Text,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alternate_screen_is_tracked_through_any_output() {
        let mut switches = Switches::default();
        for (bytes, expect) in [
            (&b"text \x1b[1;31mred\x1b[0m"[..], false),
            (b"\x1b[?25l", false),
            (b"\x1b[?10", false),
            (b"49h", true),
            (b"\x1b[?1047", true),
            (b"x\x1b[?1;47;2", true),
            (b"l", false),
            (b"\x1b[?99999999999999999999h\x1b[?47h", true),
            (b"\x1b\x1b[?1049l", false),
            (b"[?1049h", false),
        ] {
            switches.read(bytes);
            assert_eq!(switches.is_other, expect, "after {bytes:?}");
        }
    }
}
