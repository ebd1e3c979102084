//! The host side of a running VM: polls all descriptors, copies data, handles signals, and determines the VM's end.
//!
//! The only blocking call in the loop is `poll`. So a signal is handled in every phase, even if the VM, the broker or the reader of an
//! output hangs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use silo_wire::frame::{self, Frame};

use super::drain::{Drain, LOOK};
use super::link::Link;
use super::mux::{self, Mux, Source};
use super::protocol::{Phase, TimeLimits};
use super::running::Running;
use super::unreported_end::UnreportedEnd;
use crate::error::{Error, host};
use crate::failure::{Failure, failed};
use crate::host::event_loop::{Ready, Surroundings};
use crate::host::exit::Exit;
use crate::host::job_control::ProgramControl;
use crate::host::run_limits::{LimitAction, RunLimits};
use crate::host::signal_escalation::{Answer, ENDS, ReceivedSignal, Scope};
use crate::host::system::{self, SignalTarget, Signals};
use crate::linux_abi;
use silo_base::sanitize;

/// Most bytes of QEMU's messages in an error.
const MAX_LOG_BYTES: usize = 4096;
/// Time limit for a VM to end after its link was closed, and for reading the link of a VM that has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The event until which a VM is supervised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StopEvent {
    /// Its first process has sent hello.
    Heard,
    /// It has sent its report, and all earlier output was written.
    Ended,
}

/// The action after a VM's report.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AfterReport {
    /// End it immediately, because a compromised QEMU must not continue.
    Ends,
    /// Keep it running, to save it.
    Stays,
}

/// A running VM under supervision.
pub struct Supervisor<'a> {
    running: Option<Running>,
    log: Option<OwnedFd>,
    /// The last output of QEMU and the guest's kernel.
    words: Vec<u8>,
    pub mux: Mux,
    /// The caller's terminal and the network.
    pub around: Surroundings<'a>,
    afterwards: AfterReport,
    patience: TimeLimits,
    /// The current phase of the conversation, and its start.
    since: (Phase, Instant),
    /// The VM's report.
    pub end: Option<frame::Report>,
    /// The program's start and the signal that stopped it, if not handled yet.
    has_started: bool,
    stopped: Option<u8>,
    /// The drain timer after the program's end.
    linger: Drain,
    /// The time at which the link was closed or the VM ended, without a report.
    ending: Option<Instant>,
    is_closed: bool,
    gone: Option<UnreportedEnd>,
}

impl<'a> Supervisor<'a> {
    /// Starts with a VM that has not sent hello.
    pub fn new(running: Running, log: OwnedFd, mux: Mux, patience: TimeLimits, afterwards: AfterReport) -> Self {
        Supervisor {
            running: Some(running),
            log: Some(log),
            words: Vec::new(),
            mux,
            around: Surroundings::new(None, RunLimits::default()),
            afterwards,
            patience,
            since: (Phase::Boot, Instant::now()),
            end: None,
            has_started: false,
            stopped: None,
            linger: Drain::default(),
            ending: None,
            is_closed: false,
            gone: None,
        }
    }

    /// Returns the way the VM ended without a report, once it is known.
    pub fn gone(&self) -> Option<&UnreportedEnd> {
        self.gone.as_ref()
    }

    /// Returns the hypervisor.
    pub fn running(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }

    /// Returns the last output of QEMU and the guest's kernel.
    pub fn words(&self) -> &[u8] {
        &self.words
    }

    fn phase(&self) -> Phase {
        self.mux.conversation().phase()
    }

    fn is_at(&mut self, until: StopEvent) -> bool {
        match until {
            StopEvent::Heard => (Phase::Setup..=Phase::Reported).contains(&self.phase()),
            StopEvent::Ended => {
                let conversation = self.mux.conversation();
                self.end.is_some()
                    && !conversation.has_output()
                    && (!conversation.owes() || self.linger.is_over(conversation.moved(), Instant::now()))
            }
        }
    }

    /// Runs the loop until the event.
    pub fn run(&mut self, signals: &Signals, until: StopEvent, noted: &mut dyn FnMut(crate::phase::Phase)) -> Result<(), Error> {
        self.since = (self.phase(), Instant::now());
        while !self.is_at(until) {
            self.keep_time()?;
            self.keep_limits()?;
            self.around.turn(&mut Link(&mut self.mux), noted)?;
            let Some(ready) = self.wait(signals)? else { continue };
            if ready.is_logged {
                self.note();
            }
            if ready.of_host.is_signalled {
                while let Some(signal) = signals.next()? {
                    self.handle(signal)?;
                }
            }
            self.around.serve(&ready.of_host)?;
            self.listen(&ready.streams)?;
            if std::mem::take(&mut self.has_started) {
                signals.distinguish_group_signals()?;
                self.around.limits.start(Instant::now());
                noted(crate::phase::Phase::Started);
                noted(crate::phase::Phase::Printed);
                noted(crate::phase::Phase::Lasting);
            }
            if let Some(signal) = self.stopped.take() {
                self.stop_together(signal, signals, noted)?;
            }
            if ready.is_ended {
                self.check_hypervisor()?;
            }
        }
        Ok(())
    }

    /// Fails after a time limit.
    fn keep_time(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let phase = self.phase();
        if self.since.0 != phase {
            self.since = (phase, now);
        }
        if let Some((most, what)) = self.patience.of(phase)
            && now >= self.since.1 + most
        {
            self.gone = Some(UnreportedEnd::Misbehaved);
            return Err(self.lost(&format!("{what} within {} seconds", most.as_secs())));
        }
        // Both the link and the hypervisor have ended, or one of them has and the time limit for the other is over.
        let is_over = self.is_closed && self.gone.is_some() || self.ending.is_some_and(|since| now >= since + LAST_WORDS);
        if self.end.is_none() && is_over { Err(self.over()) } else { Ok(()) }
    }

    /// Ends the program at a limit of the run.
    fn keep_limits(&mut self) -> Result<(), Error> {
        if self.end.is_some() {
            self.around.limits.stop();
            return Ok(());
        }
        match self.around.check_limits() {
            LimitAction::None => Ok(()),
            LimitAction::Terminate => Link(&mut self.mux).signal(libc::SIGTERM, Scope::Group),
            LimitAction::Kill => Err(Error::Interrupted { signal: libc::SIGKILL }),
        }
    }

    /// Returns the next deadline, at which the loop must act without an event.
    fn wake(&self) -> Option<Instant> {
        let phase = self.patience.of(self.since.0).map(|(most, _)| self.since.1 + most);
        let ending = self.ending.map(|since| since + LAST_WORDS);
        [phase, ending, self.mux.broker_deadline()].into_iter().flatten().min()
    }

    /// Polls all descriptors; `None` if a signal interrupted it.
    fn wait(&self, signals: &Signals) -> Result<Option<PollResult>, Error> {
        let mut own: Vec<(BorrowedFd<'_>, PollFlags)> = self.log.iter().map(|log| (log.as_fd(), PollFlags::IN)).collect();
        let running = self.running.as_ref().filter(|_| self.gone.is_none() && self.end.is_none());
        own.extend(running.map(|running| (running.saying(), PollFlags::IN)));
        let streams = self.mux.interest();
        own.extend(streams.iter().map(|(_, fd, flags)| (*fd, *flags)));
        let lingers = self.end.is_some() && self.mux.conversation().owes();
        let wake = self.wake().map(|wake| span(wake.saturating_duration_since(Instant::now())));
        let patience = if lingers { Some(LOOK) } else { wake };
        let Some(of_host) = self.around.wait(signals, &own, patience, "waiting for the virtual machine")? else { return Ok(None) };
        let mut events = of_host.own.iter().copied();
        let mut one = |is_polled: bool| is_polled && events.next().is_some_and(|flags| !flags.is_empty());
        let (is_logged, is_ended) = (one(self.log.is_some()), one(running.is_some()));
        let streams = streams.iter().map(|(source, ..)| *source).zip(events).collect();
        Ok(Some(PollResult { is_logged, is_ended, streams, of_host }))
    }

    /// Handles data and frames from the VM.
    fn listen(&mut self, streams: &[(Source, PollFlags)]) -> Result<(), Error> {
        let turned = self.mux.turn(streams);
        while let Some(frame) = self.mux.next_frame() {
            match frame {
                Frame::Started => self.has_started = true,
                Frame::Stopped { signal } => self.stopped = Some(signal),
                Frame::Placed => self.around.note_placed(),
                Frame::Report(report) => {
                    self.end = Some(report);
                    if self.afterwards == AfterReport::Ends {
                        self.running = None;
                    }
                }
                // The phase already reflects it.
                _ => {}
            }
        }
        match turned {
            Ok(()) => Ok(()),
            // The reason follows, or the time limit ends the wait.
            Err(mux::Error::Gone) => {
                self.is_closed = true;
                self.ending.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(mux::Error::Broken(violation)) => {
                self.gone = Some(UnreportedEnd::Misbehaved);
                Err(self.lost(&violation.to_string()))
            }
            Err(mux::Error::Io(source)) => Err(Error::Host { step: "exchanging data with the virtual machine".to_owned(), source }),
        }
    }

    /// Checks if the hypervisor has ended; earlier data on the link is still read.
    fn check_hypervisor(&mut self) -> Result<(), Error> {
        if let Some(running) = &self.running
            && let Some(gone) = running.poll_end()?
        {
            self.gone = Some(gone);
            self.ending.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Waits for the end of a VM that sent no hello, within the time limit; returns the error.
    pub fn await_end(&mut self, signals: &Signals, what: &str) -> Error {
        self.ending = Some(Instant::now());
        self.is_closed = true;
        while self.gone.is_none() {
            if let Err(error) = self.keep_time() {
                return if matches!(self.gone, Some(UnreportedEnd::Misbehaved)) { self.lost(what) } else { error };
            }
            let ready = match self.wait(signals) {
                Ok(Some(ready)) => ready,
                Ok(None) => continue,
                Err(error) => return error,
            };
            if ready.of_host.is_signalled
                && let Some(signal) = signals.asks_for_an_end()
            {
                return Error::Interrupted { signal };
            }
            if ready.is_logged {
                self.note();
            }
            // Data is ignored now.
            let _ = self.listen(&ready.streams);
            if ready.is_ended
                && let Err(error) = self.check_hypervisor()
            {
                return error;
            }
        }
        self.lost(what)
    }

    /// Returns the error for a VM that ended without a report.
    fn over(&mut self) -> Error {
        self.note();
        match self.gone.get_or_insert(UnreportedEnd::Misbehaved).clone() {
            UnreportedEnd::Failed(failure) => failed(failure),
            UnreportedEnd::Exited(code) => self.lost(&format!("ended by itself (QEMU exited with {code})")),
            UnreportedEnd::Killed(signal) => self.lost(&format!("was killed (signal {signal})")),
            UnreportedEnd::Ended(how) => self.lost(&sanitize::line(&how)),
            UnreportedEnd::Misbehaved => self.lost("closed its port without ending"),
        }
    }

    /// Reads the output of QEMU and the guest's kernel, and keeps the last part.
    fn note(&mut self) {
        let mut piece = [0; MAX_LOG_BYTES];
        let Some(log) = &self.log else { return };
        match rustix::io::read(log, &mut piece) {
            Ok(length) if length > 0 => {
                self.words.extend_from_slice(&piece[..length]);
                let old = self.words.len().saturating_sub(MAX_LOG_BYTES);
                self.words.drain(..old);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // At the end of file it would stay readable.
            Ok(_) | Err(_) => self.log = None,
        }
    }

    /// Returns an error about the VM, with QEMU's own messages.
    pub fn lost(&self, what: &str) -> Error {
        // The guest controls this text, so it is escaped for the terminal.
        let words = String::from_utf8_lossy(&self.words);
        let words: Vec<String> = words.lines().map(sanitize::line).filter(|line| !line.is_empty()).collect();
        let words = if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
        Error::Machine { what: format!("{what}{words}") }
    }

    /// Forwards a signal, or applies its escalation.
    fn handle(&mut self, arrived: ReceivedSignal) -> Result<(), Error> {
        match self.around.decide(arrived) {
            Answer::Pass => self.forward(arrived),
            Answer::Insist => {
                self.forward(arrived)?;
                self.listen(&[])?;
                self.require_taken(arrived.signal)
            }
            Answer::Terminate => {
                self.forward(arrived)?;
                Link(&mut self.mux).signal(libc::SIGTERM, Scope::Group)?;
                self.listen(&[])?;
                self.require_taken(arrived.signal)
            }
            Answer::Kill => Err(Error::Interrupted { signal: libc::SIGKILL }),
        }
    }

    /// Forwards a signal to the program.
    fn forward(&mut self, arrived: ReceivedSignal) -> Result<(), Error> {
        if ENDS.contains(&arrived.signal) && (self.phase() != Phase::Running || self.ending.is_some()) {
            // The program has not started, or the VM is ending.
            return Err(Error::Interrupted { signal: arrived.signal });
        }
        if arrived.signal == libc::SIGTSTP && self.phase() != Phase::Running {
            // The program has not started, so silo stops alone.
            self.around.release();
            system::stop_by(arrived.signal, SignalTarget::This)?;
            // The time during the stop does not count for the time limit.
            self.since.1 = Instant::now();
            return Ok(());
        }
        self.around.forward(arrived, &mut Link(&mut self.mux))
    }

    /// Fails if the VM does not even accept a signal, because it will not react to any.
    fn require_taken(&self, signal: i32) -> Result<(), Error> {
        if self.mux.conversation().is_flushed() { Ok(()) } else { Err(Error::Interrupted { signal }) }
    }

    /// Handles a stopped program: silo stops with it, and both continue together.
    fn stop_together(&mut self, signal: u8, signals: &Signals, noted: &mut dyn FnMut(crate::phase::Phase)) -> Result<(), Error> {
        // Shows the program's earlier output first.
        self.listen(&[])?;
        let others = self.around.stop(linux_abi::stop(signal), signals, &mut Link(&mut self.mux), noted)?;
        self.since.1 = Instant::now();
        others.before.into_iter().try_for_each(|arrived| self.handle(arrived))?;
        self.around.resume(&mut Link(&mut self.mux))?;
        others.after.into_iter().try_for_each(|arrived| self.handle(arrived))
    }

    /// Starts the broker for requests that came just before the program's end, so that refusals are reported.
    fn serve_last(&mut self) -> Result<(), Error> {
        let Some(outlet) = &mut self.around.network else { return Ok(()) };
        let Some(channel) = outlet.asked() else { return Ok(()) };
        let waits =
            host(poll(&mut [PollFd::from_borrowed_fd(channel, PollFlags::IN)], Some(&Timespec::default())), "waiting for the network")?;
        if waits > 0 { outlet.serve() } else { Ok(()) }
    }

    /// Ends the VM, prints the remaining output, and returns the program's result.
    pub fn close(mut self, outcome: Result<(), Error>, signals: &Signals) -> Result<Exit, Error> {
        self.around.release();
        self.serve_last()?;
        // Frees the VM's memory, its mounts and its sandbox.
        drop(self.running);
        drop(self.mux);
        let exit = match (self.around.limits.reached(), outcome) {
            (Some(limit), _) => Err(Error::Limit(limit)),
            (None, Err(Error::Interrupted { signal })) => Ok(Exit::Signal(signal)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => conclude(self.end),
        };
        if let Some(screen) = self.around.screen {
            screen.finish(&exit, signals);
        }
        exit
    }
}

/// Converts a VM's report into an exit or an error.
fn conclude(end: Option<frame::Report>) -> Result<Exit, Error> {
    match end {
        Some(frame::Report::Exited(code)) => Ok(Exit::Code(code)),
        Some(frame::Report::Killed(signal)) => Ok(Exit::Signal(i32::from(signal))),
        Some(frame::Report::Failed { stage, errno, step }) => Err(failed(Failure::from_parts(stage, errno, &step))),
        None => Err(Error::Lost),
    }
}

/// The result of a poll.
struct PollResult {
    is_logged: bool,
    is_ended: bool,
    streams: Vec<(Source, PollFlags)>,
    of_host: Ready,
}

fn span(left: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
}
