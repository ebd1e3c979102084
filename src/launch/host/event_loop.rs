//! The parts of a launch's event loop that both tiers share: the caller's signals, terminal and network.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;

use super::deferred_stderr::DeferredStderr;
use super::job_control::{Around, DuringStop, Job, ProgramControl};
use super::network::SandboxNetwork;
use super::run_limits::{LimitAction, RunLimits};
use super::signal_escalation::{Answer, ReceivedSignal, SignalEscalation};
use super::stdio::Streams;
use super::system::Signals;
use super::terminal::{ForegroundChange, Screen};
use crate::error::{Error, host};
use crate::phase::Phase;

/// The surroundings of a running program: the caller's terminal, the network, and the state of its job.
pub struct Surroundings<'a> {
    /// The caller's terminal, if the program has one of its own.
    pub screen: Option<Screen>,
    /// The network, if it has one.
    pub network: Option<SandboxNetwork<'a>>,
    /// The limits of the run.
    pub limits: RunLimits,
    job: Job,
    escalation: SignalEscalation,
}

/// The result of a wait.
#[derive(Default)]
pub struct Ready {
    /// True if the time was over.
    pub is_idle: bool,
    /// True if a signal is pending.
    pub is_signalled: bool,
    /// The events of the tier's own descriptors, in their order.
    pub own: Vec<PollFlags>,
    is_asked: bool,
    keys: Vec<PollFlags>,
}

impl<'a> Surroundings<'a> {
    /// Surroundings with this network and these limits, and no terminal.
    pub fn new(network: Option<SandboxNetwork<'a>>, limits: RunLimits) -> Surroundings<'a> {
        Surroundings { screen: None, network, limits, job: Job::default(), escalation: SignalEscalation::default() }
    }

    /// Takes charge of the caller's terminal, if the program gets one of its own. Call it before the program starts, so that its first
    /// output goes to a raw terminal.
    pub fn take_terminal(&mut self, streams: &Streams, notices: DeferredStderr, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
        self.screen = Screen::of(streams, notices)?;
        if let Some(screen) = self.screen.as_mut().filter(|screen| screen.turn() == Some(ForegroundChange::Came)) {
            noted(Phase::Terminal);
            screen.take()?;
        }
        Ok(())
    }

    /// Waits for a signal, a key, a request for the network, an event of the tier's `own` descriptors, or the end of `patience`. Returns
    /// `None` if a signal interrupted the wait.
    pub fn wait(
        &self,
        signals: &Signals,
        own: &[(BorrowedFd<'_>, PollFlags)],
        patience: Option<Timespec>,
        step: &str,
    ) -> Result<Option<Ready>, Error> {
        let mut fds = vec![(signals.arriving(), PollFlags::IN)];
        let asked = self.network.as_ref().and_then(SandboxNetwork::asked);
        fds.extend(asked.map(|channel| (channel, PollFlags::IN)));
        fds.extend_from_slice(own);
        if let Some(screen) = &self.screen {
            screen.interest(&mut fds);
        }
        let mut fds: Vec<PollFd<'_>> = fds.into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect();
        let patience =
            self.screen.as_ref().and_then(Screen::patience).into_iter().chain(patience).chain(self.limits.next().map(until)).min();
        let ready = match poll(&mut fds, patience.as_ref()) {
            Err(Errno::INTR) => return Ok(None),
            polled => host(polled, step)?,
        };
        let mut events = fds.iter().map(PollFd::revents);
        let mut next = || events.next().unwrap_or(PollFlags::empty());
        Ok(Some(Ready {
            is_idle: ready == 0,
            is_signalled: !next().is_empty(),
            is_asked: asked.is_some() && !next().is_empty(),
            own: own.iter().map(|_| next()).collect(),
            keys: events.collect(),
        }))
    }

    /// Decides whether the program ends now because of a limit of the run.
    pub fn check_limits(&mut self) -> LimitAction {
        self.limits.check(Instant::now(), self.network.as_ref().and_then(SandboxNetwork::exceeded))
    }

    /// Copies keys and output, and serves the network.
    pub fn serve(&mut self, ready: &Ready) -> Result<(), Error> {
        if let Some(screen) = &mut self.screen {
            screen.copy(&ready.keys);
            if ready.is_idle {
                screen.resume_reading();
            }
        }
        self.network.as_mut().filter(|_| ready.is_asked).map_or(Ok(()), SandboxNetwork::serve)
    }

    /// Starts the broker of the network, if it waits for a first request: later this process may have threads.
    pub fn start_broker(&mut self) -> Result<(), Error> {
        self.network.as_mut().map_or(Ok(()), SandboxNetwork::start)
    }

    /// Handles changes of the foreground of the caller's terminal.
    pub fn turn(&mut self, inside: &mut dyn ProgramControl, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
        let Surroundings { screen, job, .. } = self;
        screen.as_mut().map_or(Ok(()), |screen| job.turn(screen, inside, noted))
    }

    /// Decides the reaction to a signal.
    pub fn decide(&mut self, arrived: ReceivedSignal) -> Answer {
        self.escalation.hear(arrived, Instant::now())
    }

    /// True if repeated signals have asked for the sandbox to be killed.
    pub fn has_killed(&self) -> bool {
        self.escalation.has_killed()
    }

    /// Forwards a signal to the program.
    pub fn forward(&mut self, arrived: ReceivedSignal, inside: &mut dyn ProgramControl) -> Result<(), Error> {
        self.job.forward(arrived, self.screen.as_ref(), inside)
    }

    /// Stops silo with a stopped program, until it is continued. See [`Job::stopped`].
    pub fn stop(
        &mut self,
        signal: i32,
        signals: &Signals,
        inside: &mut dyn ProgramControl,
        noted: &mut dyn FnMut(Phase),
    ) -> Result<DuringStop, Error> {
        self.job.stopped(signal, Around { screen: self.screen.as_mut(), signals, noted }, inside)
    }

    /// Continues a stopped program. See [`Job::resume`].
    pub fn resume(&self, inside: &mut dyn ProgramControl) -> Result<(), Error> {
        self.job.resume(inside)
    }

    /// Records that the program was moved to the foreground or background.
    pub fn note_placed(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.note_placed();
        }
    }

    /// Gives the terminal back: keys typed from here on are for the shell.
    pub fn release(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.release();
        }
    }
}

/// Returns the time left until a moment.
fn until(end: Instant) -> Timespec {
    let left = end.saturating_duration_since(Instant::now());
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}
