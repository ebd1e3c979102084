//! The host side of a running sandbox: forwards signals, waits for the end, and cleans up.
//!
//! The program runs in a session of its own, so keys of the caller's terminal (Ctrl-C, Ctrl-\, Ctrl-Z) never signal it directly. The kernel
//! signals silo, and silo forwards each signal exactly once to the program's process group, as the terminal would have. Silo treats a
//! signal to its whole process group in the same way. A signal to silo alone (`kill`) goes to the program alone.
//!
//! A stopped program stops silo with it, so that the caller's shell shows its prompt (`host/job.rs`). For repeated keys see `signal_escalation`.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::termios::Termios;

use super::init_messages::{self, Order, Report};
use crate::error::{Error, host};
use crate::failure::failed;
use crate::host::exit::Exit;
use crate::host::job_control::{Around, Job, Place, ProgramControl};
use crate::host::network::{SandboxNetwork, SshAgentSource};
use crate::host::signal_escalation::{Answer, ReceivedSignal, Scope, SignalEscalation};
use crate::host::system::Signals;
use crate::host::terminal::Screen;
use crate::kernel::sys::Child;
use crate::phase::Phase;

/// Runs that end within this time are short.
const SHORT: Duration = Duration::from_millis(200);

/// A running sandbox; dropping it kills the sandbox.
pub struct Sandbox {
    child: Child,
}

impl Sandbox {
    /// Takes ownership of PID 1.
    pub fn new(child: Child) -> Sandbox {
        Sandbox { child }
    }

    /// Kills all processes inside.
    pub fn kill(&self) {
        // An error means that it is gone already.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    /// Waits until the kernel has killed and reaped all processes inside.
    fn wait(&self) {
        loop {
            let id = WaitId::PidFd(self.child.pidfd.as_fd());
            match waitid(id, WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                // ECHILD means that it is gone already.
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

/// Supervises a sandbox until it is gone and its last output was written.
///
/// `outlet` serves the network on the channels that the sandbox passes, as long as the sandbox lives. `noted` is called with each phase.
pub fn watch(
    (sandbox, socket): (&Sandbox, BorrowedFd<'_>),
    signals: &Signals,
    mut screen: Option<Screen>,
    mut outlet: Option<SandboxNetwork<'_>>,
    noted: &mut dyn FnMut(Phase),
) -> Result<Exit, Error> {
    let mut control = Control { sandbox, inside: Link(socket), job: Job::default(), insistence: SignalEscalation::default() };
    let mut short_until = None;
    let end = loop {
        if short_until.is_some_and(|end| end <= Instant::now()) {
            short_until = None;
            noted(Phase::Lasting);
        }
        if let Some(screen) = &mut screen {
            control.job.turn(screen, &mut control.inside, noted)?;
        }
        let mut fds = vec![PollFd::from_borrowed_fd(socket, PollFlags::IN), PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN)];
        let mut interest = Vec::new();
        if let Some(screen) = &screen {
            screen.interest(&mut interest);
        }
        fds.extend(interest.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let asked = outlet.as_ref().and_then(SandboxNetwork::asked);
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
                control.heed(signal, screen.as_ref())?;
            }
        }
        if let Some(screen) = &mut screen {
            screen.copy(&events[2..2 + streams]);
            if ready == 0 {
                screen.look_again();
            }
        }
        if let Some(outlet) = outlet.as_mut().filter(|_| events.get(2 + streams).is_some_and(|events| !events.is_empty())) {
            outlet.serve()?;
        }
        if !events[0].is_empty() {
            match host(init_messages::next_report(socket), "receiving from the sandbox") {
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
                    let around = Around { screen: screen.as_mut(), signals, noted: &mut *noted };
                    let others = control.job.stopped(i32::from(signal), around, &mut control.inside)?;
                    others.before.into_iter().try_for_each(|signal| control.heed(signal, screen.as_ref()))?;
                    control.job.resume(&mut control.inside)?;
                    others.after.into_iter().try_for_each(|signal| control.heed(signal, screen.as_ref()))?;
                }
                Ok(Some(Report::Placed)) => {
                    if let Some(screen) = &mut screen {
                        screen.note_placed();
                    }
                }
                Ok(Some(Report::Channel(fd))) => {
                    if let Some(outlet) = &mut outlet {
                        outlet.take_channel(fd)?;
                    }
                }
                Ok(Some(Report::Keys(fd))) => {
                    if let Some(outlet) = &mut outlet {
                        outlet.take_keys(SshAgentSource::Listener(fd))?;
                    }
                }
                Ok(report) => break report,
                Err(error) => return Err(error),
            }
        }
    };
    noted(Phase::Ended);
    if let Some(screen) = &mut screen {
        // Keys typed from here on are for the shell.
        screen.release();
    }
    sandbox.wait();
    let exit = match (&end, control.insistence.has_killed()) {
        (None, true) => Ok(Exit::Signal(libc::SIGKILL)),
        _ => conclude(end),
    };
    if let Some(screen) = screen {
        screen.finish(&exit, signals);
    }
    exit
}

/// Converts a sandbox's final report into an exit or an error.
fn conclude(end: Option<Report>) -> Result<Exit, Error> {
    let failure = match end {
        Some(Report::Exited(code)) => return Ok(Exit::Code(code)),
        Some(Report::Killed(signal)) => return Ok(Exit::Signal(i32::from(signal))),
        Some(Report::Terminal(_) | Report::Channel(_) | Report::Keys(_) | Report::Started | Report::Stopped(_) | Report::Placed) | None => {
            return Err(Error::Lost);
        }
        Some(Report::Failed(failure)) => failure,
    };
    Err(failed(failure))
}

/// Control of a running sandbox.
struct Control<'a> {
    sandbox: &'a Sandbox,
    inside: Link<'a>,
    job: Job,
    insistence: SignalEscalation,
}

impl Control<'_> {
    /// Forwards a signal, or applies its escalation.
    fn heed(&mut self, signal: ReceivedSignal, screen: Option<&Screen>) -> Result<(), Error> {
        match self.insistence.hear(signal, Instant::now()) {
            Answer::Pass | Answer::Insist => self.job.forward(signal, screen, &mut self.inside),
            Answer::Terminate => {
                self.job.forward(signal, screen, &mut self.inside)?;
                self.inside.signal(libc::SIGTERM, Scope::Group)
            }
            Answer::Kill => {
                // The loop then reads the final report or the end of the socket.
                self.sandbox.kill();
                Ok(())
            }
        }
    }
}

/// The socket to PID 1.
struct Link<'a>(BorrowedFd<'a>);

impl Link<'_> {
    fn order(&self, order: Order) -> Result<(), Error> {
        match init_messages::order(self.0, order) {
            // PID 1 is ending; its final report follows.
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Ok(()),
            sent => host(sent, "signalling the sandbox"),
        }
    }
}

impl ProgramControl for Link<'_> {
    fn signal(&mut self, signal: i32, scope: Scope) -> Result<(), Error> {
        self.order(Order::Signal { signal: u8::try_from(signal).unwrap_or(0), scope })
    }

    fn place(&mut self, place: Place) -> Result<(), Error> {
        self.order(match place {
            Place::Foreground => Order::Foreground,
            Place::Background => Order::Background,
        })
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
