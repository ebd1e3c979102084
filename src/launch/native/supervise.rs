//! The host side of a running sandbox: forwards signals, waits for the end, and leaves nothing behind.
//!
//! The program runs in a session of its own, so the keys of the caller's terminal (Ctrl-C, Ctrl-\,
//! Ctrl-Z) never reach it directly: the kernel sends their signals to silo, which passes each on
//! exactly once, to the program's process group, as the terminal would have. What a process sends
//! to silo (`kill`) goes to the program alone. The price: a sandbox in the background that reads
//! the caller's terminal as its input is not stopped for it.
//!
//! A program in a terminal of the sandbox's own that is stopped there (Ctrl-Z) stops silo with it, so that the caller's
//! shell has its prompt back; `fg` continues both. What comes again and again is in `insistence`.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::sys::Child;
use super::wire::{self, Order, Report, Scope};
use crate::launch::error::Error;
use crate::launch::host::failure::failed;
use crate::launch::host::insistence::{Answer, Arrived, Insistence};
use crate::launch::host::outlet::{Askers, Outlet};
use crate::launch::host::streams::host;
use crate::launch::host::system::{Signals, stop, stop_with_group};
use crate::launch::host::terminal::Screen;
use crate::launch::{Exit, Phase};

/// A running sandbox; killed when dropped before its end.
pub struct Sandbox {
    child: Child,
}

impl Sandbox {
    /// Takes charge of PID 1.
    pub fn new(child: Child) -> Sandbox {
        Sandbox { child }
    }

    /// Kills everything inside.
    pub fn kill(&self) {
        // Gone already is what we want.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    /// Waits until the kernel has killed and reaped everything inside.
    fn wait(&self) {
        loop {
            let id = WaitId::PidFd(self.child.pidfd.as_fd());
            match waitid(id, WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                // Nothing to wait for means it is gone already.
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        self.wait();
    }
}

/// Watches over a sandbox until it is gone and its last output was written.
///
/// `outlet` serves the network on what the sandbox hands out, as long as the sandbox lives; `noted` is told of each phase.
pub fn watch(
    sandbox: &Sandbox,
    socket: BorrowedFd<'_>,
    signals: &Signals,
    mut screen: Option<Screen>,
    mut outlet: Option<Outlet<'_>>,
    noted: &mut dyn FnMut(Phase),
) -> Result<Exit, Error> {
    let mut insistence = Insistence::default();
    let end = loop {
        let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN), PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN)];
        let mut interest = Vec::new();
        if let Some(screen) = &screen {
            screen.interest(&mut interest);
        }
        fds.extend(interest.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let asked = outlet.as_ref().and_then(Outlet::asked);
        fds.extend(asked.map(|channel| PollFd::from_borrowed_fd(channel, PollFlags::IN)));
        let patience = screen.as_ref().and_then(Screen::patience);
        let ready = match poll(&mut fds, patience.as_ref()) {
            Err(Errno::INTR) => continue,
            result => host(result, "waiting for the sandbox")?,
        };
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let streams = interest.len();
        drop(fds);
        drop(interest);
        if !events[1].is_empty() {
            while let Some(signal) = signals.next()? {
                answer(insistence.hear(signal, Instant::now()), signal, sandbox, socket, screen.as_mut())?;
            }
        }
        if let Some(screen) = &mut screen {
            screen.carry(&events[2..2 + streams]);
            if ready == 0 {
                screen.look_again();
            }
        }
        if let Some(outlet) = outlet.as_mut().filter(|_| events.get(2 + streams).is_some_and(|events| !events.is_empty())) {
            outlet.serve()?;
        }
        if !events[0].is_empty() {
            match host(wire::next_report(socket), "listening to the sandbox") {
                Ok(Some(Report::Terminal(fd))) => {
                    if let Some(screen) = &mut screen {
                        screen.connect(fd)?;
                    }
                }
                Ok(Some(Report::Started)) => noted(Phase::Started),
                Ok(Some(Report::Stopped)) => stopped(socket, signals, screen.as_mut())?,
                Ok(Some(Report::Channel(fd))) => {
                    if let Some(outlet) = &mut outlet {
                        outlet.take_channel(fd)?;
                    }
                }
                Ok(Some(Report::Keys(fd))) => {
                    if let Some(outlet) = &mut outlet {
                        outlet.take_keys(Askers::Listener(fd))?;
                    }
                }
                Ok(report) => break report,
                Err(error) => return Err(error),
            }
        }
    };
    noted(Phase::Ended);
    sandbox.wait();
    if let Some(screen) = screen {
        screen.drain(signals);
    }
    match (&end, insistence.has_killed()) {
        (None, true) => Ok(Exit::Signal(libc::SIGKILL)),
        _ => conclude(end),
    }
}

/// Turns a sandbox's last word into an exit or an error.
fn conclude(end: Option<Report>) -> Result<Exit, Error> {
    let failure = match end {
        Some(Report::Exited(code)) => return Ok(Exit::Code(code)),
        Some(Report::Killed(signal)) => return Ok(Exit::Signal(i32::from(signal))),
        Some(Report::Terminal(_) | Report::Channel(_) | Report::Keys(_) | Report::Started | Report::Stopped) | None => {
            return Err(Error::Lost);
        }
        Some(Report::Failed(failure)) => failure,
    };
    Err(failed(failure))
}

/// Passes a signal on, or does what it means that it came again and again.
fn answer(answer: Answer, signal: Arrived, sandbox: &Sandbox, socket: BorrowedFd<'_>, screen: Option<&mut Screen>) -> Result<(), Error> {
    match answer {
        Answer::Pass => pass_on(signal, socket, screen),
        Answer::Terminate => {
            pass_on(signal, socket, screen)?;
            send(libc::SIGTERM, Scope::Group, socket)
        }
        Answer::Kill => {
            // Its end is read afterwards, unless it has another last word.
            sandbox.kill();
            Ok(())
        }
    }
}

/// Does with a signal what it is for.
fn pass_on(arrived: Arrived, socket: BorrowedFd<'_>, screen: Option<&mut Screen>) -> Result<(), Error> {
    let scope = if arrived.from_kernel { Scope::Group } else { Scope::Program };
    match (arrived.signal, screen) {
        (libc::SIGWINCH, Some(screen)) => screen.resize(),
        // Stop for the caller's shell; what runs in the terminal inside runs on, as under ssh.
        (libc::SIGTSTP, Some(screen)) => {
            screen.release();
            stop()?;
            screen.retake()
        }
        // A program in another session than its terminal ignores SIGTSTP, so it is stopped for it.
        (libc::SIGTSTP, None) => {
            send(libc::SIGSTOP, scope, socket)?;
            stop()?;
            send(libc::SIGCONT, scope, socket)
        }
        (signal, _) => send(signal, scope, socket),
    }
}

fn send(signal: i32, scope: Scope, socket: BorrowedFd<'_>) -> Result<(), Error> {
    let signal = u8::try_from(signal).unwrap_or(0);
    match wire::order(socket, Order { signal, scope }) {
        // It is ending; its last word is on the way.
        Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(()),
        sent => host(sent, "signalling the sandbox"),
    }
}

/// The program was stopped in its terminal: silo stops with it, and both are continued together.
fn stopped(socket: BorrowedFd<'_>, signals: &Signals, mut screen: Option<&mut Screen>) -> Result<(), Error> {
    if let Some(screen) = &mut screen {
        screen.release();
        stop_with_group()?;
        screen.retake()?;
    }
    // Whoever continued silo did so by a signal, which waits to be passed on; once is enough.
    while let Some(signal) = signals.next()? {
        if signal.signal != libc::SIGCONT {
            pass_on(signal, socket, screen.as_deref_mut())?;
        }
    }
    send(libc::SIGCONT, Scope::Group, socket)
}
