//! The caller's terminal while a program has its own terminal inside.
//!
//! The sandbox creates its own pseudo-terminal and passes the master side here. Silo changes the caller's terminal only while it is in the
//! foreground, as a shell's job may. Then the terminal is raw, so every key is forwarded, and the terminal inside does signals, echo and
//! job control. In the background silo leaves the settings alone and reads no keys. The program is then in the background of its own
//! terminal, too, so the kernel stops it as it would outside. No process inside ever has the caller's terminal open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::{Errno, read, write};
use rustix::termios::{
    OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::deferred_stderr::DeferredStderr;
use super::nonblocking::{Direction, NonBlocking};
use super::stdio::{Streams, TerminalTakeover, is_foreground};
use super::system::{self, Signals};
use crate::error::{Error, host};
use crate::host::exit::Exit;

/// Bytes copied at a time. Small pieces let a key (Ctrl-C) through quickly during large output.
const PIECE_BYTES: usize = 4096;

/// Interval, in nanoseconds, for polling a terminal that no process has open, and for polling silo's foreground state. A shell does not
/// signal a job that is already running.
const LOOK_NANOS: i64 = 50_000_000;

/// The terminal settings to restore if the process panics while the terminal is raw.
static AT_PANIC: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// The caller's terminal, and the master side of the sandbox's terminal.
pub struct Screen {
    /// The caller's terminal, opened again if possible, so that reads and writes do not block.
    keyboard: NonBlocking,
    display: NonBlocking,
    take: TerminalTakeover,
    /// True if the program has used its terminal, for [`Take::AtUse`].
    is_used: bool,
    /// While the terminal is taken over: its settings before and its raw settings.
    taken: Option<(Termios, Termios)>,
    /// True if the terminal controls this process, so that a shell decides about the foreground.
    is_controlling: bool,
    /// The settings last applied to the terminal inside.
    given: Termios,
    inside: Option<OwnedFd>,
    typed: Vec<u8>,
    printed: Vec<u8>,
    input_open: bool,
    is_hung_up: bool,
    /// The signal of the last key that generates one.
    key: Option<i32>,
    deserted: bool,
    /// Orders about the program's foreground that are not executed yet. A key typed now would signal another process group inside, so
    /// keys wait.
    orders: u32,
    notices: DeferredStderr,
}

/// A detected change of the foreground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForegroundChange {
    /// Silo came to the foreground.
    Came,
    /// Silo left the foreground without being stopped.
    Left,
}

impl Screen {
    /// Takes charge of the caller's terminal, if the program gets one of its own.
    pub fn of(streams: &Streams, notices: DeferredStderr) -> Result<Option<Screen>, Error> {
        let (Some(terminal), Some(console)) = (&streams.terminal, &streams.console) else { return Ok(None) };
        let step = "taking the terminal over";
        Ok(Some(Screen {
            keyboard: host(NonBlocking::shared(console.keyboard.as_fd(), Direction::Read), step)?,
            display: host(NonBlocking::shared(console.display.as_fd(), Direction::Write), step)?,
            take: console.take,
            is_used: false,
            taken: None,
            is_controlling: tcgetpgrp(&console.keyboard).is_ok(),
            given: (*terminal.settings).clone(),
            inside: None,
            typed: Vec::new(),
            printed: Vec::new(),
            input_open: true,
            is_hung_up: false,
            key: None,
            deserted: false,
            orders: 0,
            notices,
        }))
    }

    /// True if silo is in the foreground of the caller's terminal.
    pub fn is_foreground(&self) -> bool {
        is_foreground(self.keyboard.as_fd())
    }

    /// True if the caller's terminal is taken over.
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Records that the program uses its terminal.
    pub fn note_use(&mut self) {
        self.is_used = true;
    }

    /// Records an order that moves the program to the foreground or background: keys wait until it is executed.
    pub fn note_order(&mut self) {
        self.orders = self.orders.saturating_add(1);
    }

    /// Records that the oldest order was executed.
    pub fn note_placed(&mut self) {
        self.orders = self.orders.saturating_sub(1);
    }

    /// True if the terminal should be taken over in the foreground.
    fn is_wanted(&self) -> bool {
        self.input_open && (self.take == TerminalTakeover::Always || self.is_used)
    }

    /// Checks if silo entered or left the foreground.
    pub fn turn(&self) -> Option<ForegroundChange> {
        match (self.is_taken(), self.is_wanted() && self.is_foreground()) {
            (false, true) => Some(ForegroundChange::Came),
            (true, false) if self.input_open => Some(ForegroundChange::Left),
            _ => None,
        }
    }

    /// Makes the caller's terminal raw, with silo in the foreground; returns the previous settings.
    pub fn take(&mut self) -> Result<Termios, Error> {
        let step = "making the terminal raw";
        let settings = host(tcgetattr(&self.keyboard), step)?;
        let mut raw = settings.clone();
        raw.make_raw();
        restore_at_panic(&self.keyboard, settings.clone());
        host(tcsetattr(&self.keyboard, OptionalActions::Drain, &raw), step)?;
        // Read back, because the system may add settings of its own.
        let raw = host(tcgetattr(&self.keyboard), step)?;
        self.taken = Some((settings.clone(), raw));
        self.resize()?;
        Ok(settings)
    }

    /// Restores the settings of the caller's terminal, unless another program has changed them since.
    pub fn release(&mut self) {
        let Some((settings, raw)) = self.taken.take() else { return };
        if tcgetattr(&self.keyboard).is_ok_and(|now| is_same(&now, &raw)) {
            // The terminal may be gone; then there is nothing to restore. A process in the background would be stopped by this call.
            let _ = system::unstopped(|| tcsetattr(&self.keyboard, OptionalActions::Drain, &settings));
        }
        forget_at_panic();
    }

    /// Applies the caller's settings to the terminal inside, unless the program has changed them.
    pub fn give_settings(&mut self, settings: &Termios) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.given, settings.clone());
        let Some(inside) = &self.inside else { return Ok(()) };
        refresh(inside, &before, settings);
        Ok(())
    }

    /// Returns the size of the caller's terminal.
    pub fn size(&self) -> Option<Winsize> {
        tcgetwinsize(&self.display).ok()
    }

    /// Types end of input for a program that reads a terminal on which nobody will type.
    pub fn type_end(&mut self) {
        let end = self.given.special_codes[SpecialCodeIndex::VEOF];
        self.typed.push(end);
        self.enter_typed();
    }

    /// Returns true once after a hangup, if the kernel does not signal the program itself.
    pub fn was_hung_up(&mut self) -> bool {
        std::mem::take(&mut self.is_hung_up) && !self.is_controlling
    }

    /// True if a key generated the signal that ended the program; then the signal was for silo's whole process group.
    fn made_by_key(&self, signal: i32) -> bool {
        self.is_controlling && self.key == Some(signal)
    }

    /// Connects the master side of the sandbox's terminal.
    pub fn connect(&mut self, inside: OwnedFd) -> Result<(), Error> {
        host(rustix::io::ioctl_fionbio(&inside, true), "connecting the terminal")?;
        self.inside = Some(inside);
        // The size may have changed since the sandbox was requested.
        self.resize()
    }

    /// Applies the caller's terminal size to the terminal inside.
    pub fn resize(&self) -> Result<(), Error> {
        let Some(inside) = &self.inside else { return Ok(()) };
        let Some(size) = self.size() else { return Ok(()) };
        match tcsetwinsize(inside, size) {
            // This is the connection to a terminal in a VM, which gets its size in a message.
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
            set => host(set, "resizing the terminal"),
        }
    }

    /// Returns the poll timeout: no event reports that a process inside opens a deserted terminal again, or that the foreground changed.
    pub fn patience(&self) -> Option<Timespec> {
        let waits_for_turn = self.is_controlling && self.is_wanted() && !self.is_taken();
        (self.deserted || waits_for_turn).then_some(Timespec { tv_sec: 0, tv_nsec: LOOK_NANOS })
    }

    /// Resumes reading a deserted terminal; call it after the timeout.
    pub fn resume_reading(&mut self) {
        self.deserted = false;
    }

    /// Adds the descriptors to poll: for input unless some waits to be written, for output if some waits.
    pub fn interest<'a>(&'a self, fds: &mut Vec<(BorrowedFd<'a>, PollFlags)>) {
        let Some(inside) = &self.inside else { return };
        if self.deserted {
            return;
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.printed.is_empty());
        flags.set(PollFlags::OUT, !self.typed.is_empty() && self.orders == 0);
        fds.push((inside.as_fd(), flags));
        if !self.printed.is_empty() {
            fds.push((self.display.as_fd(), PollFlags::OUT));
        }
        if self.input_open && self.typed.is_empty() {
            // A hangup is reported even without requested events.
            let keys = if self.is_taken() && self.orders == 0 { PollFlags::IN } else { PollFlags::empty() };
            fds.push((self.keyboard.as_fd(), keys));
        }
    }

    /// Copies pending data; `events` belong to the descriptors from [`Screen::interest`].
    pub fn copy(&mut self, events: &[PollFlags]) {
        let mut events = events.iter();
        let Some(of_inside) = events.next() else { return };
        if !self.printed.is_empty() && events.next().is_some_and(|flags| !flags.is_empty()) {
            self.print();
        }
        match events.next() {
            Some(flags) if self.is_taken() && self.orders == 0 && !flags.is_empty() => self.take_typed(),
            Some(flags) if flags.intersects(PollFlags::HUP | PollFlags::ERR) => self.hang_up(),
            _ => {}
        }
        if of_inside.contains(PollFlags::OUT) {
            self.enter_typed();
        }
        if of_inside.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && self.printed.is_empty() {
            self.take_printed();
        }
    }

    fn take_typed(&mut self) {
        let mut piece = [0; PIECE_BYTES];
        // In the background the keys belong to another process; the next check of the foreground notices.
        if !self.is_foreground() {
            return;
        }
        match self.keyboard.read(&mut piece) {
            Ok(0) => self.hang_up(),
            Ok(length) => {
                self.key = piece[..length].iter().rev().find_map(|byte| self.signal_of(*byte)).or(self.key);
                self.typed.extend_from_slice(&piece[..length]);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.hang_up(),
        }
        self.enter_typed();
    }

    /// Returns the signal that a key generates with the caller's settings.
    fn signal_of(&self, key: u8) -> Option<i32> {
        let (settings, _) = self.taken.as_ref()?;
        let makes = |code| settings.special_codes[code] == key;
        match (makes(SpecialCodeIndex::VINTR), makes(SpecialCodeIndex::VQUIT)) {
            (true, _) => Some(libc::SIGINT),
            (_, true) => Some(libc::SIGQUIT),
            _ => None,
        }
    }

    /// Closes the terminal inside after the caller's terminal is gone.
    fn hang_up(&mut self) {
        self.input_open = false;
        self.inside = None;
        self.is_hung_up = true;
    }

    fn enter_typed(&mut self) {
        let Some(inside) = &self.inside else { return };
        if self.typed.is_empty() || self.orders > 0 {
            return;
        }
        match write(inside, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // No process reads any more; the program is about to end.
            Err(_) => self.typed.clear(),
        }
    }

    /// Reads output from inside; returns false if there was none.
    fn take_printed(&mut self) -> bool {
        let Some(inside) = &self.inside else { return false };
        let mut piece = [0; PIECE_BYTES];
        match read(inside, &mut piece) {
            Ok(length) if length > 0 => {
                let is_cooked = !self.is_taken() && self.adds_returns();
                self.printed.extend_from_slice(&piece[..length]);
                if is_cooked {
                    drop_returns(&mut self.printed);
                }
                self.print();
                return true;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // EIO: no process inside has the terminal open now, and all output was read. Our end stays open: closing it would kill (SIGHUP)
            // a program that has closed its streams and is about to exit.
            Ok(_) | Err(_) => self.deserted = true,
        }
        false
    }

    /// True if the caller's terminal adds a carriage return before each newline, as the one inside has already done.
    fn adds_returns(&self) -> bool {
        let both = OutputModes::OPOST | OutputModes::ONLCR;
        tcgetattr(&self.display).is_ok_and(|settings| settings.output_modes.contains(both))
    }

    /// Writes queued output, if the caller's terminal accepts it now.
    fn print(&mut self) {
        let mut fds = [PollFd::new(&self.display, PollFlags::OUT)];
        if !matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1)) {
            return;
        }
        match self.display.write(&self.printed) {
            Ok(length) => {
                self.notices.printed(&self.printed[..length]);
                drop(self.printed.drain(..length));
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The terminal is gone.
            Err(_) => {
                self.printed.clear();
                self.hang_up();
            }
        }
    }

    /// Prints the remaining output. If a key's signal ended the program, sends it to the rest of silo's process group, as a terminal in
    /// canonical mode would have done.
    pub fn finish(self, exit: &Result<Exit, Error>, signals: &Signals) {
        let signal = match exit {
            Ok(Exit::Signal(signal)) if self.made_by_key(*signal) => Some(*signal),
            _ => None,
        };
        self.drain(signals);
        if let Some(signal) = signal {
            system::share_key(signal, signals);
        }
    }

    /// Prints the remaining output after the sandbox's end. A signal that asks for an end stops this, because a terminal may be stopped
    /// (Ctrl-S) or have no reader.
    fn drain(mut self, signals: &Signals) {
        loop {
            while !self.printed.is_empty() {
                let mut fds = [PollFd::new(&self.display, PollFlags::OUT), PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN)];
                // An interrupted wait is repeated.
                let _ = poll(&mut fds, None);
                let has_signal = !fds[1].revents().is_empty();
                if has_signal && signals.asks_for_an_end().is_some() {
                    return;
                }
                self.print();
            }
            if !self.take_printed() {
                return;
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.release();
        self.notices.finish();
    }
}

/// Applies new settings to a terminal inside, unless the program has changed the previous ones.
pub fn refresh(terminal: impl AsFd, before: &Termios, new: &Termios) {
    // A terminal that refuses keeps its settings. The connection to a terminal in a VM has none.
    if tcgetattr(&terminal).is_ok_and(|now| is_same(&now, before)) && !is_same(before, new) {
        let _ = tcsetattr(&terminal, OptionalActions::Now, new);
    }
}

/// True if two settings are equal.
fn is_same(one: &Termios, other: &Termios) -> bool {
    system::terminal(one) == system::terminal(other)
}

/// Removes the carriage return before each newline.
fn drop_returns(text: &mut Vec<u8>) {
    let mut kept = 0;
    for at in 0..text.len() {
        if text[at] == b'\r' && text.get(at + 1) == Some(&b'\n') {
            continue;
        }
        text[kept] = text[at];
        kept += 1;
    }
    text.truncate(kept);
}

/// Installs a panic hook that restores the terminal before it prints, also if panics abort.
fn restore_at_panic(terminal: &NonBlocking, settings: Termios) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let Ok(terminal) = rustix::io::fcntl_dupfd_cloexec(terminal, 3) else { return };
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Ok(mut settings) = AT_PANIC.try_lock()
                && let Some((terminal, settings)) = settings.take()
            {
                let _ = tcsetattr(&terminal, OptionalActions::Now, &settings);
            }
            before(panic);
        }));
    });
    if let Ok(mut at_panic) = AT_PANIC.lock() {
        *at_panic = Some((terminal, settings));
    }
}

fn forget_at_panic() {
    if let Ok(mut settings) = AT_PANIC.lock() {
        *settings = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_has_one_return_on_a_terminal_that_adds_it() {
        for (text, expect) in [("a\r\nb\r\n", "a\nb\n"), ("50%\r60%\r", "50%\r60%\r"), ("\r\r\n", "\r\n"), ("", "")] {
            let mut bytes = text.as_bytes().to_vec();
            drop_returns(&mut bytes);
            assert_eq!(String::from_utf8_lossy(&bytes), expect, "{text:?}");
        }
    }
}
