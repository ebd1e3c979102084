//! The caller's terminal while a program has one of its own inside.
//!
//! The sandbox's terminal is made in the sandbox; its other end is here. The caller's terminal is touched only while silo is
//! in its foreground, as a shell's job may: then it is raw, so every key goes through, and the terminal inside makes signals,
//! echo and job control out of them. In the background its settings stay as they are, no key is read, and the program is in
//! the background of its own terminal, too, so that the kernel stops it where it would stop it outside. Nothing inside ever
//! holds the caller's terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::{Errno, read, write};
use rustix::termios::{
    OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::no_wait::{NoWait, Way};
use super::notices::Notices;
use super::streams::{Streams, Take, host, is_foreground};
use super::system::{self, Signals};
use crate::launch::Exit;
use crate::launch::error::Error;

/// Bytes carried at a time: a small piece lets a key (Ctrl-C) through soon, even while a lot is being printed.
const PIECE_BYTES: usize = 4096;

/// How often a terminal that nobody has open is looked at, and whether silo came to the foreground, in nanoseconds: shells
/// do not tell a job that runs already.
const LOOK_NANOS: i64 = 50_000_000;

/// The settings to go back to if the process panics, while the terminal is raw.
static AT_PANIC: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// The caller's terminal, and the host's end of the sandbox's.
pub struct Screen {
    /// The caller's terminal, opened once more where that can be done: neither typing nor printing waits.
    keyboard: NoWait,
    display: NoWait,
    take: Take,
    /// Whether the program has used its terminal, which counts for [`Take::AtUse`].
    is_used: bool,
    /// While it is taken over: its settings before, and those that it was given.
    taken: Option<(Termios, Termios)>,
    /// Whether the terminal controls this process, so that a shell decides about the foreground.
    is_controlling: bool,
    /// The settings that the terminal inside was given last.
    given: Termios,
    inside: Option<OwnedFd>,
    typed: Vec<u8>,
    printed: Vec<u8>,
    input_open: bool,
    is_hung_up: bool,
    /// The signal of the last key that makes one.
    key: Option<i32>,
    deserted: bool,
    notices: Notices,
}

/// A change of the foreground that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Silo came to the foreground.
    Came,
    /// Silo left it without having been stopped.
    Left,
}

impl Screen {
    /// Takes charge of the caller's terminal, if the program is to have one of its own.
    pub fn of(streams: &Streams, notices: Notices) -> Result<Option<Screen>, Error> {
        let (Some(terminal), Some(console)) = (&streams.terminal, &streams.console) else { return Ok(None) };
        let step = "taking the terminal over";
        Ok(Some(Screen {
            keyboard: host(NoWait::shared(console.keyboard.as_fd(), Way::Read), step)?,
            display: host(NoWait::shared(console.display.as_fd(), Way::Write), step)?,
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
            notices,
        }))
    }

    /// Whether silo is in the foreground of the caller's terminal.
    pub fn is_foreground(&self) -> bool {
        is_foreground(self.keyboard.as_fd())
    }

    /// Whether the caller's terminal is taken over.
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// Notes that the program uses its terminal.
    pub fn note_use(&mut self) {
        self.is_used = true;
    }

    /// Whether the terminal is to be taken over in the foreground.
    fn is_wanted(&self) -> bool {
        self.input_open && (self.take == Take::Always || self.is_used)
    }

    /// Looks whether silo came to the foreground or left it.
    pub fn turn(&self) -> Option<Turn> {
        match (self.is_taken(), self.is_wanted() && self.is_foreground()) {
            (false, true) => Some(Turn::Came),
            (true, false) if self.input_open => Some(Turn::Left),
            _ => None,
        }
    }

    /// Makes the caller's terminal raw, with silo in the foreground; returns the settings that it had.
    pub fn take(&mut self) -> Result<Termios, Error> {
        let step = "making the terminal raw";
        let settings = host(tcgetattr(&self.keyboard), step)?;
        let mut raw = settings.clone();
        raw.make_raw();
        restore_at_panic(&self.keyboard, settings.clone());
        host(tcsetattr(&self.keyboard, OptionalActions::Drain, &raw), step)?;
        // As the system has them, which may add some of its own.
        let raw = host(tcgetattr(&self.keyboard), step)?;
        self.taken = Some((settings.clone(), raw));
        self.resize()?;
        Ok(settings)
    }

    /// Gives the caller's terminal its settings back, unless another program has changed them since.
    pub fn release(&mut self) {
        let Some((settings, raw)) = self.taken.take() else { return };
        if tcgetattr(&self.keyboard).is_ok_and(|now| is_same(&now, &raw)) {
            // The terminal may have gone away, and then it needs nothing. A process that another one has put into the
            // background would be stopped for this.
            let _ = system::unstopped(|| tcsetattr(&self.keyboard, OptionalActions::Drain, &settings));
        }
        forget_at_panic();
    }

    /// Gives the terminal inside the caller's settings, unless the program has settings of its own.
    pub fn give_settings(&mut self, settings: &Termios) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.given, settings.clone());
        let Some(inside) = &self.inside else { return Ok(()) };
        refresh(inside, &before, settings);
        Ok(())
    }

    /// The size of the caller's terminal.
    pub fn size(&self) -> Option<Winsize> {
        tcgetwinsize(&self.display).ok()
    }

    /// Types the end of input for a program that reads a terminal which nobody will type on.
    pub fn type_end(&mut self) {
        let end = self.given.special_codes[SpecialCodeIndex::VEOF];
        self.typed.push(end);
        self.enter_typed();
    }

    /// Says once that the terminal is gone, where nobody else tells the program.
    pub fn was_hung_up(&mut self) -> bool {
        std::mem::take(&mut self.is_hung_up) && !self.is_controlling
    }

    /// Whether a signal that ended the program came from a key: then it was for silo's whole process group.
    fn made_by_key(&self, signal: i32) -> bool {
        self.is_controlling && self.key == Some(signal)
    }

    /// Connects the host's end of the sandbox's terminal.
    pub fn connect(&mut self, inside: OwnedFd) -> Result<(), Error> {
        host(rustix::io::ioctl_fionbio(&inside, true), "connecting the terminal")?;
        self.inside = Some(inside);
        // The size may have changed since the sandbox was asked for.
        self.resize()
    }

    /// Gives the terminal inside the size of the caller's.
    pub fn resize(&self) -> Result<(), Error> {
        let Some(inside) = &self.inside else { return Ok(()) };
        let Some(size) = self.size() else { return Ok(()) };
        match tcsetwinsize(inside, size) {
            // The way to a terminal in a machine, which is told otherwise.
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
            set => host(set, "resizing the terminal"),
        }
    }

    /// How long to poll: nothing says when somebody inside opens a deserted terminal again, or when the foreground changes.
    pub fn patience(&self) -> Option<Timespec> {
        let waits_for_turn = self.is_controlling && self.is_wanted() && !self.is_taken();
        (self.deserted || waits_for_turn).then_some(Timespec { tv_sec: 0, tv_nsec: LOOK_NANOS })
    }

    /// To be called when that time is over: looks at a deserted terminal again.
    pub fn look_again(&mut self) {
        self.deserted = false;
    }

    /// Says what to poll for: input unless some waits to be carried, output unless some waits.
    pub fn interest<'a>(&'a self, fds: &mut Vec<(BorrowedFd<'a>, PollFlags)>) {
        let Some(inside) = &self.inside else { return };
        if self.deserted {
            return;
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.printed.is_empty());
        flags.set(PollFlags::OUT, !self.typed.is_empty());
        fds.push((inside.as_fd(), flags));
        if !self.printed.is_empty() {
            fds.push((self.display.as_fd(), PollFlags::OUT));
        }
        if self.input_open && self.typed.is_empty() {
            // Without interest, its end is told all the same.
            let keys = if self.is_taken() { PollFlags::IN } else { PollFlags::empty() };
            fds.push((self.keyboard.as_fd(), keys));
        }
    }

    /// Carries what can be carried; `events` belong to what [`Screen::interest`] named.
    pub fn carry(&mut self, events: &[PollFlags]) {
        let mut events = events.iter();
        let Some(of_inside) = events.next() else { return };
        if !self.printed.is_empty() && events.next().is_some_and(|flags| !flags.is_empty()) {
            self.print();
        }
        match events.next() {
            Some(flags) if self.is_taken() && !flags.is_empty() => self.take_typed(),
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
        // Keys are another's by now: the next look finds that out.
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

    /// The signal that a key makes in a terminal with the caller's settings.
    fn signal_of(&self, key: u8) -> Option<i32> {
        let (settings, _) = self.taken.as_ref()?;
        let makes = |code| settings.special_codes[code] == key;
        match (makes(SpecialCodeIndex::VINTR), makes(SpecialCodeIndex::VQUIT)) {
            (true, _) => Some(libc::SIGINT),
            (_, true) => Some(libc::SIGQUIT),
            _ => None,
        }
    }

    /// The caller's terminal is gone: so is the one inside.
    fn hang_up(&mut self) {
        self.input_open = false;
        self.inside = None;
        self.is_hung_up = true;
    }

    fn enter_typed(&mut self) {
        let Some(inside) = &self.inside else { return };
        if self.typed.is_empty() {
            return;
        }
        match write(inside, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody reads any more; the program's end is on its way.
            Err(_) => self.typed.clear(),
        }
    }

    /// Takes what was printed inside; says whether there was anything.
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
            // EIO: nothing inside has the terminal open at the moment, and all output was read. Our
            // end stays open: closing it would kill a program that has closed its streams and is
            // about to exit (SIGHUP).
            Ok(_) | Err(_) => self.deserted = true,
        }
        false
    }

    /// Whether the caller's terminal puts a return before each new line, as the one inside has done already.
    fn adds_returns(&self) -> bool {
        let both = OutputModes::OPOST | OutputModes::ONLCR;
        tcgetattr(&self.display).is_ok_and(|settings| settings.output_modes.contains(both))
    }

    /// Writes what waits, if the caller's terminal takes it now.
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
            // Nobody sees it any more.
            Err(_) => {
                self.printed.clear();
                self.hang_up();
            }
        }
    }

    /// Prints what the sandbox left; gives a key's signal that ended the program to the rest of silo's process group, which a
    /// terminal would have done when it was typed.
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

    /// Prints what the sandbox left, after its end: nothing more can come then. A signal that asks for an end ends it, since a
    /// terminal may be stopped (Ctrl-S) or not read by anybody.
    fn drain(mut self, signals: &Signals) {
        loop {
            while !self.printed.is_empty() {
                let mut fds = [PollFd::new(&self.display, PollFlags::OUT), PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN)];
                // An interrupted wait is only tried again.
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

/// Gives a terminal inside new settings, unless it has others than those before, which are the program's own.
pub fn refresh(terminal: impl AsFd, before: &Termios, new: &Termios) {
    // A terminal that refuses keeps its settings. The way to one in a machine has none.
    if tcgetattr(&terminal).is_ok_and(|now| is_same(&now, before)) && !is_same(before, new) {
        let _ = tcsetattr(&terminal, OptionalActions::Now, new);
    }
}

/// Whether two settings are the same.
fn is_same(one: &Termios, other: &Termios) -> bool {
    system::terminal(one) == system::terminal(other)
}

/// Drops each return before a new line.
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

/// Has a panic restore the terminal before it prints, also where panics abort.
fn restore_at_panic(terminal: &NoWait, settings: Termios) {
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
