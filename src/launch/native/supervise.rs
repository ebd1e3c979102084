//! The host side of a running sandbox: forwards signals, waits for the end, and leaves nothing behind.
//!
//! The program runs in a session of its own, so the keys of the caller's terminal (Ctrl-C, Ctrl-\,
//! Ctrl-Z) never reach it directly: the kernel sends their signals to silo, which passes each on
//! exactly once, to the program's process group, as the terminal would have. So does silo with the signals that a process
//! sends to silo's process group. A signal for silo alone (`kill`) goes to the program alone.
//!
//! A program that is stopped stops silo with it, so that the caller's shell has its prompt back (`host/job.rs`).
//! Keys that come again and again are in `insistence`.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::termios::Termios;

use super::sys::Child;
use super::wire::{self, Order, Report, Scope};
use crate::launch::error::Error;
use crate::launch::host::failure::failed;
use crate::launch::host::insistence::{Answer, Arrived, Insistence};
use crate::launch::host::job::{Inside, Job};
use crate::launch::host::outlet::{Askers, Outlet};
use crate::launch::host::streams::host;
use crate::launch::host::system::Signals;
use crate::launch::host::terminal::Screen;
use crate::launch::{Exit, Phase};

/// How long a run is a short one.
const SHORT: Duration = Duration::from_millis(200);

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
    let mut job = Job::default();
    let mut inside = Link(socket);
    let mut short_until = None;
    let end = loop {
        if short_until.is_some_and(|end| end <= Instant::now()) {
            short_until = None;
            noted(Phase::Lasting);
        }
        if let Some(screen) = &mut screen {
            job.turn(screen, &mut inside, noted)?;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN), PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN)];
        let mut interest = Vec::new();
        if let Some(screen) = &screen {
            screen.interest(&mut interest);
        }
        fds.extend(interest.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let asked = outlet.as_ref().and_then(Outlet::asked);
        fds.extend(asked.map(|channel| PollFd::from_borrowed_fd(channel, PollFlags::IN)));
        let left = short_until.map(|end: Instant| end.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1).into() });
        let patience = screen.as_ref().and_then(Screen::patience).into_iter().chain(left).min();
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
                answer(insistence.hear(signal, Instant::now()), signal, sandbox, &mut job, screen.as_ref(), &mut inside)?;
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
                Ok(Some(Report::Started)) => {
                    signals.tell_apart()?;
                    noted(Phase::Started);
                    short_until = Some(Instant::now() + SHORT);
                }
                Ok(Some(Report::Stopped(signal))) => {
                    let others = job.stopped(i32::from(signal), screen.as_mut(), signals, &mut inside, noted)?;
                    for signal in others {
                        answer(insistence.hear(signal, Instant::now()), signal, sandbox, &mut job, screen.as_ref(), &mut inside)?;
                    }
                }
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
    if let Some(screen) = &mut screen {
        // Keys that are typed from here on are the shell's.
        screen.release();
    }
    sandbox.wait();
    let exit = match (&end, insistence.has_killed()) {
        (None, true) => Ok(Exit::Signal(libc::SIGKILL)),
        _ => conclude(end),
    };
    if let Some(screen) = screen {
        screen.finish(&exit, signals);
    }
    exit
}

/// Turns a sandbox's last word into an exit or an error.
fn conclude(end: Option<Report>) -> Result<Exit, Error> {
    let failure = match end {
        Some(Report::Exited(code)) => return Ok(Exit::Code(code)),
        Some(Report::Killed(signal)) => return Ok(Exit::Signal(i32::from(signal))),
        Some(Report::Terminal(_) | Report::Channel(_) | Report::Keys(_) | Report::Started | Report::Stopped(_)) | None => {
            return Err(Error::Lost);
        }
        Some(Report::Failed(failure)) => failure,
    };
    Err(failed(failure))
}

/// Passes a signal on, or does what it means that it came again and again.
fn answer(
    answer: Answer,
    signal: Arrived,
    sandbox: &Sandbox,
    job: &mut Job,
    screen: Option<&Screen>,
    inside: &mut Link<'_>,
) -> Result<(), Error> {
    match answer {
        Answer::Pass | Answer::Insist => job.pass_on(signal, screen, inside),
        Answer::Terminate => {
            job.pass_on(signal, screen, inside)?;
            inside.signal(libc::SIGTERM, true)
        }
        Answer::Kill => {
            // Its end is read afterwards, unless it has another last word.
            sandbox.kill();
            Ok(())
        }
    }
}

/// The way to PID 1.
struct Link<'a>(BorrowedFd<'a>);

impl Link<'_> {
    fn order(&self, order: Order) -> Result<(), Error> {
        match wire::order(self.0, order) {
            // It is ending; its last word is on the way.
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(()),
            sent => host(sent, "signalling the sandbox"),
        }
    }
}

impl Inside for Link<'_> {
    fn signal(&mut self, signal: i32, to_group: bool) -> Result<(), Error> {
        let scope = if to_group { Scope::Group } else { Scope::Program };
        self.order(Order::Signal { signal: u8::try_from(signal).unwrap_or(0), scope })
    }

    fn foreground(&mut self, is_foreground: bool) -> Result<(), Error> {
        self.order(if is_foreground { Order::Foreground } else { Order::Background })
    }

    fn settings(&mut self, screen: &mut Screen, settings: &Termios) -> Result<(), Error> {
        screen.give_settings(settings)
    }

    fn resize(&mut self, screen: &Screen) -> Result<(), Error> {
        screen.resize()
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
