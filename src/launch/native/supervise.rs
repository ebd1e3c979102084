//! The host side of a running sandbox: forwards signals, waits for the end, and cleans up.
//!
//! The program runs in a session of its own, so keys of the caller's terminal (Ctrl-C, Ctrl-\, Ctrl-Z) never signal it directly. The kernel
//! signals silo, and silo forwards each signal exactly once to the program's process group, as the terminal would have. Silo treats a
//! signal to its whole process group in the same way. A signal to silo alone (`kill`) goes to the program alone.
//!
//! A stopped program stops silo with it, so that the caller's shell shows its prompt (`host/job_control.rs`). For repeated keys see `signal_escalation`.

use std::iter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::termios::Termios;

use super::init_messages::{self, Order, Report};
use crate::error::{Error, host};
use crate::failure::failed;
use crate::host::event_loop::Surroundings;
use crate::host::exit::Exit;
use crate::host::job_control::{Place, ProgramControl};
use crate::host::network::SshAgentSource;
use crate::host::run_limits::LimitAction;
use crate::host::signal_escalation::{Answer, ReceivedSignal, Scope};
use crate::host::system::{Signals, leave};
use crate::host::terminal::Screen;
use crate::kernel::sys::{self, Child};
use crate::phase::Phase;

/// Runs that end within this time are short.
const SHORT: Duration = Duration::from_millis(200);

/// A running sandbox; dropping it kills the sandbox.
pub struct Sandbox {
    child: Child,
    /// True if no end of a mount or a cgroup has to be waited for.
    may_leave: bool,
    /// True if PID 1 is ending as the last process.
    is_last: bool,
}

impl Sandbox {
    /// Takes ownership of PID 1.
    pub fn new(child: Child) -> Sandbox {
        Sandbox { child, may_leave: false, is_last: false }
    }

    /// The same sandbox, whose PID 1 is not waited for if it ends as the last process: freeing its namespaces takes a part of a millisecond.
    pub fn leaving_first_process(self) -> Sandbox {
        let mut sandbox = self;
        sandbox.may_leave = true;
        sandbox
    }

    /// Kills all processes inside.
    pub fn kill(&self) {
        // An error means that it is gone already.
        let _ = pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }

    /// Waits until the kernel has killed and reaped all processes inside, unless PID 1 is the only one and may be left.
    fn wait(&self) {
        if self.may_leave && self.is_last {
            return;
        }
        // ECHILD means that it is gone already.
        while let Err(Errno::INTR) = waitid(WaitId::PidFd(self.child.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        self.wait();
        // Reaped already, or left.
        if let (true, true, Some(pid)) = (self.may_leave, self.is_last, Pid::from_raw(self.child.pid)) {
            leave(pid);
        }
    }
}

/// Supervises a sandbox until it is gone and its last output was written. The network is served on the channels that the sandbox passes.
/// `noted` is called with each phase; the first bytes of `output` are one.
pub fn watch(
    (sandbox, socket): (&mut Sandbox, BorrowedFd<'_>),
    signals: &Signals,
    (around, mut output): (Surroundings<'_>, Option<OwnedFd>),
    noted: &mut dyn FnMut(Phase),
) -> Result<Exit, Error> {
    let mut control = Control { sandbox, inside: Link(socket), around };
    let mut short_until = None;
    // Watched from the report of the start on: before that, this process has to fork.
    let mut unprinted = None;
    let end = loop {
        if short_until.is_some_and(|end| end <= Instant::now()) {
            short_until = None;
            // Before there are threads.
            control.around.start_broker()?;
            noted(Phase::Lasting);
            sys::release_code();
        }
        match control.around.check_limits() {
            LimitAction::None => {}
            LimitAction::Terminate => control.inside.signal(libc::SIGTERM, Scope::Group)?,
            // The loop then reads the final report or the end of the socket.
            LimitAction::Kill => control.sandbox.kill(),
        }
        control.around.turn(&mut control.inside, noted)?;
        let left = short_until.map(|end: Instant| end.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1).into() });
        let own: Vec<_> = iter::once(socket).chain(unprinted.as_ref().map(OwnedFd::as_fd)).map(|fd| (fd, PollFlags::IN)).collect();
        let Some(ready) = control.around.wait(signals, &own, left, "waiting for the sandbox")? else { continue };
        if ready.is_signalled {
            while let Some(signal) = signals.next()? {
                control.handle(signal)?;
            }
        }
        control.around.serve(&ready)?;
        let has_event = |index: usize| ready.own.get(index).is_some_and(|events| !events.is_empty());
        if has_event(1) {
            unprinted = None;
            control.around.start_broker()?;
            noted(Phase::Printed);
        }
        if !has_event(0) {
            continue;
        }
        match host(init_messages::next_report(socket), "receiving from the sandbox")? {
            Some(Report::Terminal(fd)) => {
                if let Some(screen) = &mut control.around.screen {
                    screen.connect(fd)?;
                }
            }
            Some(Report::Started) => {
                signals.distinguish_group_signals()?;
                noted(Phase::Started);
                control.around.limits.start(Instant::now());
                short_until = Some(Instant::now() + SHORT);
                unprinted = output.take();
            }
            Some(Report::Stopped(signal)) => {
                let others = control.around.stop(i32::from(signal), signals, &mut control.inside, noted)?;
                others.before.into_iter().try_for_each(|signal| control.handle(signal))?;
                control.around.resume(&mut control.inside)?;
                others.after.into_iter().try_for_each(|signal| control.handle(signal))?;
            }
            Some(Report::Placed) => control.around.note_placed(),
            Some(Report::Last) => control.sandbox.is_last = true,
            Some(Report::Channel(fd)) => {
                if let Some(network) = &mut control.around.network {
                    network.take_channel(fd)?;
                }
            }
            Some(Report::Keys(fd)) => {
                if let Some(network) = &mut control.around.network {
                    network.take_keys(SshAgentSource::Listener(fd))?;
                }
            }
            report => break report,
        }
    };
    noted(Phase::Ended);
    let mut around = control.around;
    around.release();
    control.sandbox.wait();
    let exit = match (around.limits.reached(), &end, around.has_killed()) {
        (Some(limit), ..) => Err(Error::Limit(limit)),
        (None, None, true) => Ok(Exit::Signal(libc::SIGKILL)),
        (None, ..) => conclude(end),
    };
    if let Some(screen) = around.screen {
        screen.finish(&exit, signals);
    }
    exit
}

/// Converts a sandbox's final report into an exit or an error.
fn conclude(end: Option<Report>) -> Result<Exit, Error> {
    let failure = match end {
        Some(Report::Exited(code)) => return Ok(Exit::Code(code)),
        Some(Report::Killed(signal)) => return Ok(Exit::Signal(i32::from(signal))),
        Some(
            Report::Terminal(_)
            | Report::Channel(_)
            | Report::Keys(_)
            | Report::Started
            | Report::Stopped(_)
            | Report::Placed
            | Report::Last,
        )
        | None => {
            return Err(Error::Lost);
        }
        Some(Report::Failed(failure)) => failure,
    };
    Err(failed(failure))
}

/// Control of a running sandbox.
struct Control<'a, 'n> {
    sandbox: &'a mut Sandbox,
    inside: Link<'a>,
    around: Surroundings<'n>,
}

impl Control<'_, '_> {
    /// Forwards a signal, or applies its escalation.
    fn handle(&mut self, signal: ReceivedSignal) -> Result<(), Error> {
        match self.around.decide(signal) {
            Answer::Pass | Answer::Insist => self.around.forward(signal, &mut self.inside),
            Answer::Terminate => {
                self.around.forward(signal, &mut self.inside)?;
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
