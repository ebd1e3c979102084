//! The caller's terminal while a program has one of its own inside.
//!
//! The sandbox's terminal is made in the sandbox; its other end is here. The caller's terminal is
//! raw meanwhile, so every key goes through, and the terminal inside makes signals, echo and job
//! control out of them. Nothing inside ever holds the caller's terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::{Errno, read, write};
use rustix::termios::{OptionalActions, Termios, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::no_wait::{NoWait, Way};
use super::notices::Notices;
use super::streams::{Streams, host};
use super::system::Signals;
use crate::launch::error::Error;

/// Bytes carried at a time: a small piece lets a key (Ctrl-C) through soon, even while a lot is being printed.
const PIECE_BYTES: usize = 4096;

/// How often a terminal that nobody has open is looked at, in nanoseconds.
const DESERTED_NANOS: i64 = 50_000_000;

/// The settings to go back to if the process panics, while the terminal is raw.
static AT_PANIC: Mutex<Option<Termios>> = Mutex::new(None);

/// The caller's terminal, raw until dropped, and the host's end of the sandbox's.
pub struct Screen {
    settings: Termios,
    /// The caller's terminal, opened once more where that can be done: neither typing nor printing waits.
    keyboard: NoWait,
    display: NoWait,
    inside: Option<OwnedFd>,
    typed: Vec<u8>,
    printed: Vec<u8>,
    input_open: bool,
    deserted: bool,
    notices: Notices,
}

impl Screen {
    /// Takes the caller's terminal over, if the program is to have one of its own.
    pub fn take_over(streams: &Streams, notices: Notices) -> Result<Option<Screen>, Error> {
        let Streams::Terminal { settings, .. } = streams else { return Ok(None) };
        let step = "taking the terminal over";
        let screen = Screen {
            settings: (**settings).clone(),
            keyboard: host(NoWait::shared(rustix::stdio::stdin(), Way::Read), step)?,
            display: host(NoWait::shared(rustix::stdio::stdout(), Way::Write), step)?,
            inside: None,
            typed: Vec::new(),
            printed: Vec::new(),
            input_open: true,
            deserted: false,
            notices,
        };
        restore_at_panic(screen.settings.clone());
        screen.retake()?;
        Ok(Some(screen))
    }

    /// Makes the caller's terminal raw; waits in the background for its turn, as the kernel has it.
    pub fn retake(&self) -> Result<(), Error> {
        let mut raw = self.settings.clone();
        raw.make_raw();
        host(tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &raw), "making the terminal raw")?;
        self.resize()
    }

    /// Gives the caller's terminal its settings back.
    pub fn release(&self) {
        // The terminal may have gone away, and then it needs nothing.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.settings);
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
        let Ok(size) = tcgetwinsize(rustix::stdio::stdout()) else { return Ok(()) };
        match tcsetwinsize(inside, size) {
            // The way to a terminal in a machine, which is told otherwise.
            Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
            set => host(set, "resizing the terminal"),
        }
    }

    /// How long to poll: nothing says when somebody inside opens a deserted terminal again.
    pub fn patience(&self) -> Option<Timespec> {
        self.deserted.then_some(Timespec { tv_sec: 0, tv_nsec: DESERTED_NANOS })
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
            fds.push((self.keyboard.as_fd(), PollFlags::IN));
        }
    }

    /// Carries what can be carried; `events` belong to what [`Screen::interest`] named.
    pub fn carry(&mut self, events: &[PollFlags]) {
        let mut events = events.iter();
        let Some(of_inside) = events.next() else { return };
        if !self.printed.is_empty() && events.next().is_some_and(|flags| !flags.is_empty()) {
            self.print();
        }
        if events.next().is_some_and(|flags| !flags.is_empty()) {
            self.take_typed();
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
        match self.keyboard.read(&mut piece) {
            Ok(0) => self.hang_up(),
            Ok(length) => self.typed.extend_from_slice(&piece[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.hang_up(),
        }
        self.enter_typed();
    }

    /// The caller's terminal is gone: so is the one inside, which the program hears as SIGHUP.
    fn hang_up(&mut self) {
        self.input_open = false;
        self.inside = None;
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
                self.printed.extend_from_slice(&piece[..length]);
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

    /// Prints what the sandbox left, after its end: nothing more can come then. A signal that asks for an end ends it, since a
    /// terminal may be stopped (Ctrl-S) or not read by anybody.
    pub fn drain(mut self, signals: &Signals) {
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
        if let Ok(mut settings) = AT_PANIC.lock() {
            *settings = None;
        }
    }
}

/// Has a panic restore the terminal before it prints, also where panics abort.
fn restore_at_panic(settings: Termios) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Ok(mut settings) = AT_PANIC.try_lock()
                && let Some(settings) = settings.take()
            {
                let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &settings);
            }
            before(panic);
        }));
    });
    if let Ok(mut at_panic) = AT_PANIC.lock() {
        *at_panic = Some(settings);
    }
}
