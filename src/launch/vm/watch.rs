//! The host's side of one machine at work: waits for everything at once, carries, hears signals, and judges its end.
//!
//! No call in the loop waits but `poll`, so a signal is heard in every phase, whatever the machine, the broker or the reader
//! of an output does or leaves undone.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use silo_wire::frame::{self, Frame};

use super::Running;
use super::conversation::{Patience, Phase};
use super::linger::{LOOK, Linger};
use super::link::Link;
use super::mux::{self, Mux, Source};
use crate::launch::error::Error;
use crate::launch::foreign;
use crate::launch::host::failure::{Failure, Stage, failed};
use crate::launch::host::insistence::{Answer, Arrived, ENDS, Insistence};
use crate::launch::host::job::{Inside, Job};
use crate::launch::host::outlet::Outlet;
use crate::launch::host::streams::host;
use crate::launch::host::system::{self, Signals, Who};
use crate::launch::host::terminal::Screen;
use crate::launch::{self, Exit};
use crate::plain;

/// The most of QEMU's messages that is told.
const MAX_LOG_BYTES: usize = 4096;
/// How long a machine whose link is closed may take to end, and one that has ended to be heard out.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a machine is attended to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Its first process is heard.
    Heard,
    /// It has reported, and everything before it was written.
    Ended,
}

/// What becomes of a machine that has reported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It is ended at once: what is in QEMU's place has nothing more to do.
    Ends,
    /// It goes on, to be saved.
    Stays,
}

/// How a machine ended that has not reported.
#[derive(Clone, Debug)]
pub enum Gone {
    /// It was never made.
    Failed(Failure),
    /// What ran it exited with this code.
    Exited(u8),
    /// What ran it was killed by this signal.
    Killed(u8),
    /// It ended in another way.
    Ended(String),
    /// It was silent, closed its port, or said what no machine says.
    Misbehaved,
}

/// A machine at work.
pub struct Watch<'a> {
    running: Option<Running>,
    log: Option<OwnedFd>,
    /// What QEMU and the machine's kernel said last.
    words: Vec<u8>,
    pub mux: Mux,
    pub screen: Option<Screen>,
    pub outlet: Option<Outlet<'a>>,
    afterwards: Afterwards,
    patience: Patience,
    /// Since when the conversation is in its phase.
    since: (Phase, Instant),
    /// The report.
    pub end: Option<frame::Report>,
    /// Whether the program has begun, and the signal by which it was stopped, which were not told yet.
    has_started: bool,
    stopped: Option<u8>,
    job: Job,
    /// How long it was waited for what the program wrote to the network last.
    linger: Linger,
    /// When the link was closed, or the machine ended, without a report.
    ending: Option<Instant>,
    is_closed: bool,
    gone: Option<Gone>,
    /// How often an end was asked for.
    insistence: Insistence,
}

impl<'a> Watch<'a> {
    /// Begins with a machine that has not been heard.
    pub fn new(running: Running, log: OwnedFd, mux: Mux, patience: Patience, afterwards: Afterwards) -> Self {
        Watch {
            running: Some(running),
            log: Some(log),
            words: Vec::new(),
            mux,
            screen: None,
            outlet: None,
            afterwards,
            patience,
            since: (Phase::Boot, Instant::now()),
            end: None,
            has_started: false,
            stopped: None,
            job: Job::default(),
            linger: Linger::default(),
            ending: None,
            is_closed: false,
            gone: None,
            insistence: Insistence::default(),
        }
    }

    /// How the machine ended without a report, once that is known.
    pub fn gone(&self) -> Option<&Gone> {
        self.gone.as_ref()
    }

    /// What runs the machine.
    pub fn running(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }

    /// What QEMU and the machine's kernel said last.
    pub fn words(&self) -> &[u8] {
        &self.words
    }

    fn phase(&self) -> Phase {
        self.mux.conversation().phase()
    }

    fn is_at(&mut self, until: Until) -> bool {
        match until {
            Until::Heard => (Phase::Setup..=Phase::Reported).contains(&self.phase()),
            Until::Ended => {
                let conversation = self.mux.conversation();
                self.end.is_some()
                    && !conversation.has_output()
                    && (!conversation.owes() || self.linger.is_over(conversation.moved(), Instant::now()))
            }
        }
    }

    /// Carries until then.
    pub fn run(&mut self, signals: &Signals, until: Until, noted: &mut dyn FnMut(launch::Phase)) -> Result<(), Error> {
        self.since = (self.phase(), Instant::now());
        while !self.is_at(until) {
            self.keep_time()?;
            self.turn(noted)?;
            let ready = self.wait(signals)?;
            if ready.is_logged {
                self.note();
            }
            if ready.is_signalled {
                while let Some(signal) = signals.next()? {
                    self.heed(signal)?;
                }
            }
            if let Some(screen) = &mut self.screen {
                screen.carry(&ready.keys);
                if ready.is_idle {
                    screen.look_again();
                }
            }
            if let Some(outlet) = self.outlet.as_mut().filter(|_| ready.is_asked) {
                outlet.serve()?;
            }
            self.listen(&ready.streams)?;
            if std::mem::take(&mut self.has_started) {
                signals.tell_apart()?;
                noted(launch::Phase::Started);
                noted(launch::Phase::Lasting);
            }
            if let Some(signal) = self.stopped.take() {
                self.stop_together(signal, signals, noted)?;
            }
            if ready.is_ended {
                self.look()?;
            }
        }
        Ok(())
    }

    /// Fails where a deadline is over.
    fn keep_time(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        let phase = self.phase();
        if self.since.0 != phase {
            self.since = (phase, now);
        }
        if let Some((most, what)) = self.patience.of(phase)
            && now >= self.since.1 + most
        {
            self.gone = Some(Gone::Misbehaved);
            return Err(self.lost(&format!("{what} within {} seconds", most.as_secs())));
        }
        // Both halves of the end have come, or one and nothing behind it.
        let is_over = self.is_closed && self.gone.is_some() || self.ending.is_some_and(|since| now >= since + LAST_WORDS);
        if self.end.is_none() && is_over { Err(self.over()) } else { Ok(()) }
    }

    /// When something is to be done although nothing happens.
    fn wake(&self) -> Option<Instant> {
        let phase = self.patience.of(self.since.0).map(|(most, _)| self.since.1 + most);
        let ending = self.ending.map(|since| since + LAST_WORDS);
        [phase, ending, self.mux.broker_deadline()].into_iter().flatten().min()
    }

    /// Waits until something can be done.
    fn wait(&self, signals: &Signals) -> Result<Ready, Error> {
        let mut fds = vec![PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN)];
        fds.extend(self.log.iter().map(|log| PollFd::new(log, PollFlags::IN)));
        let running = self.running.as_ref().filter(|_| self.gone.is_none() && self.end.is_none());
        fds.extend(running.map(|running| PollFd::from_borrowed_fd(running.saying(), PollFlags::IN)));
        let asked = self.outlet.as_ref().and_then(Outlet::asked);
        fds.extend(asked.map(|channel| PollFd::from_borrowed_fd(channel, PollFlags::IN)));
        let mut keys: Vec<(BorrowedFd<'_>, PollFlags)> = Vec::new();
        if let Some(screen) = &self.screen {
            screen.interest(&mut keys);
        }
        fds.extend(keys.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let streams = self.mux.interest();
        fds.extend(streams.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let lingers = self.end.is_some() && self.mux.conversation().owes();
        let patience = self.screen.as_ref().and_then(Screen::patience).or_else(|| lingers.then_some(LOOK));
        let patience = patience.or_else(|| self.wake().map(|wake| span(wake.saturating_duration_since(Instant::now()))));
        let is_idle = match poll(&mut fds, patience.as_ref()) {
            Err(Errno::INTR) => return Ok(Ready::default()),
            polled => host(polled, "waiting for the machine")? == 0,
        };
        let mut events = fds.iter().map(PollFd::revents);
        let mut one = |is_polled: bool| is_polled && events.next().is_some_and(|flags| !flags.is_empty());
        Ok(Ready {
            is_idle,
            is_signalled: one(true),
            is_logged: one(self.log.is_some()),
            is_ended: one(running.is_some()),
            is_asked: one(asked.is_some()),
            keys: events.by_ref().take(keys.len()).collect(),
            streams: streams.iter().map(|(source, ..)| *source).zip(events).collect(),
        })
    }

    /// Hears what the machine says.
    fn listen(&mut self, streams: &[(Source, PollFlags)]) -> Result<(), Error> {
        let turned = self.mux.turn(streams);
        while let Some(frame) = self.mux.next_frame() {
            match frame {
                Frame::Started => self.has_started = true,
                Frame::Stopped { signal } => self.stopped = Some(signal),
                Frame::Report(report) => {
                    self.end = Some(report);
                    if self.afterwards == Afterwards::Ends {
                        self.running = None;
                    }
                }
                // The phase says it.
                _ => {}
            }
        }
        match turned {
            Ok(()) => Ok(()),
            // It says why, or not.
            Err(mux::Error::Gone) => {
                self.is_closed = true;
                self.ending.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(mux::Error::Broken(violation)) => {
                self.gone = Some(Gone::Misbehaved);
                Err(self.lost(&violation.to_string()))
            }
            Err(mux::Error::Io(source)) => Err(Error::Host { step: "talking to the machine".to_owned(), source }),
        }
    }

    /// Looks whether what runs the machine has ended; what it said before is heard then.
    fn look(&mut self) -> Result<(), Error> {
        if let Some(running) = &self.running
            && let Some(gone) = running.look()?
        {
            self.gone = Some(gone);
            self.ending.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    /// Waits for the end of a machine that was not heard, for as long as that may take; says how it ended.
    pub fn await_end(&mut self, signals: &Signals, what: &str) -> Error {
        self.ending = Some(Instant::now());
        self.is_closed = true;
        while self.gone.is_none() {
            if let Err(error) = self.keep_time() {
                return if matches!(self.gone, Some(Gone::Misbehaved)) { self.lost(what) } else { error };
            }
            let ready = match self.wait(signals) {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            if ready.is_signalled
                && let Some(signal) = signals.asks_for_an_end()
            {
                return Error::Interrupted { signal };
            }
            if ready.is_logged {
                self.note();
            }
            // Whatever it says now is too late.
            let _ = self.listen(&ready.streams);
            if ready.is_ended
                && let Err(error) = self.look()
            {
                return error;
            }
        }
        self.lost(what)
    }

    /// The machine is gone, and has not reported.
    fn over(&mut self) -> Error {
        self.note();
        match self.gone.get_or_insert(Gone::Misbehaved).clone() {
            Gone::Failed(failure) => failed(failure),
            Gone::Exited(code) => self.lost(&format!("ended by itself (QEMU exited with {code})")),
            Gone::Killed(signal) => self.lost(&format!("was killed (signal {signal})")),
            Gone::Ended(how) => self.lost(&plain::line(&how)),
            Gone::Misbehaved => self.lost("closed its port and went on"),
        }
    }

    /// Reads what QEMU and the machine's kernel say, and keeps the last of it.
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
            // At its end it would be readable for ever.
            Ok(_) | Err(_) => self.log = None,
        }
    }

    /// Says what became of the machine, with QEMU's own words.
    pub fn lost(&self, what: &str) -> Error {
        // A guest may say what it likes; none of it may move a terminal's cursor.
        let words = String::from_utf8_lossy(&self.words);
        let words: Vec<String> = words.lines().map(plain::line).filter(|line| !line.is_empty()).collect();
        let words = if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
        Error::Machine { what: format!("{what}{words}") }
    }

    /// Passes a signal on, or does what it means that it came again and again.
    fn heed(&mut self, arrived: Arrived) -> Result<(), Error> {
        match self.insistence.hear(arrived, Instant::now()) {
            Answer::Pass => self.pass_on(arrived),
            Answer::Insist => {
                self.pass_on(arrived)?;
                self.listen(&[])?;
                self.require_taken(arrived.signal)
            }
            Answer::Terminate => {
                self.pass_on(arrived)?;
                Link(&mut self.mux).signal(libc::SIGTERM, true)?;
                self.listen(&[])?;
                self.require_taken(arrived.signal)
            }
            Answer::Kill => Err(Error::Interrupted { signal: libc::SIGKILL }),
        }
    }

    /// Does with a signal what it is for.
    fn pass_on(&mut self, arrived: Arrived) -> Result<(), Error> {
        if ENDS.contains(&arrived.signal) && (self.phase() != Phase::Running || self.ending.is_some()) {
            // There is no program yet that could hear it, or none any more.
            return Err(Error::Interrupted { signal: arrived.signal });
        }
        if arrived.signal == libc::SIGTSTP && self.phase() != Phase::Running {
            // Nor one that could be stopped.
            if let Some(screen) = &mut self.screen {
                screen.release();
            }
            system::stop_by(arrived.signal, Who::This)?;
            // The time in which silo was stopped is nobody's fault.
            self.since.1 = Instant::now();
            return Ok(());
        }
        let Watch { mux, screen, job, .. } = self;
        job.pass_on(arrived, screen.as_ref(), &mut Link(mux))
    }

    /// Fails where the machine does not even take a signal: it will answer none.
    fn require_taken(&self, signal: i32) -> Result<(), Error> {
        if self.mux.conversation().is_flushed() { Ok(()) } else { Err(Error::Interrupted { signal }) }
    }

    /// Follows the foreground of the caller's terminal.
    fn turn(&mut self, noted: &mut dyn FnMut(launch::Phase)) -> Result<(), Error> {
        let Watch { mux, screen, job, .. } = self;
        screen.as_mut().map_or(Ok(()), |screen| job.turn(screen, &mut Link(mux), noted))
    }

    /// The program was stopped: silo stops with it, and both are continued together.
    fn stop_together(&mut self, signal: u8, signals: &Signals, noted: &mut dyn FnMut(launch::Phase)) -> Result<(), Error> {
        // What the program printed before it is shown before.
        self.listen(&[])?;
        let Watch { mux, screen, job, .. } = self;
        let others = job.stopped(foreign::stop(signal), screen.as_mut(), signals, &mut Link(mux), noted)?;
        self.since.1 = Instant::now();
        others.into_iter().try_for_each(|arrived| self.heed(arrived))
    }

    /// Begins to serve a network that was not asked before its program ended: refusals are told.
    fn serve_last(&mut self) -> Result<(), Error> {
        let Some(outlet) = &mut self.outlet else { return Ok(()) };
        let Some(channel) = outlet.asked() else { return Ok(()) };
        let waits =
            host(poll(&mut [PollFd::from_borrowed_fd(channel, PollFlags::IN)], Some(&Timespec::default())), "waiting for the network")?;
        if waits > 0 { outlet.serve() } else { Ok(()) }
    }

    /// Ends the machine, prints what is left, and says how the program ended.
    pub fn close(mut self, outcome: Result<(), Error>, signals: &Signals) -> Result<Exit, Error> {
        if let Some(screen) = &mut self.screen {
            // Keys that are typed from here on are the shell's.
            screen.release();
        }
        self.serve_last()?;
        // Nothing of it is needed any more: its memory, its disk's mount and its sandbox go with it.
        drop(self.running);
        drop(self.mux);
        let exit = match outcome {
            Err(Error::Interrupted { signal }) => Ok(Exit::Signal(signal)),
            Err(error) => Err(error),
            Ok(()) => conclude(self.end),
        };
        if let Some(screen) = self.screen {
            screen.finish(&exit, signals);
        }
        exit
    }
}

/// Turns a machine's last word into an exit or an error.
fn conclude(end: Option<frame::Report>) -> Result<Exit, Error> {
    match end {
        Some(frame::Report::Exited(code)) => Ok(Exit::Code(code)),
        Some(frame::Report::Killed(signal)) => Ok(Exit::Signal(i32::from(signal))),
        Some(frame::Report::Failed { stage, errno, step }) => {
            let stage = match stage {
                frame::Stage::Setup => Stage::Setup,
                frame::Stage::Find => Stage::Find,
                frame::Stage::Execute => Stage::Execute,
            };
            Err(failed(Failure::from_parts(stage, errno, &step)))
        }
        None => Err(Error::Lost),
    }
}

/// What a wait found.
#[derive(Default)]
struct Ready {
    is_idle: bool,
    is_signalled: bool,
    is_logged: bool,
    is_ended: bool,
    is_asked: bool,
    keys: Vec<PollFlags>,
    streams: Vec<(Source, PollFlags)>,
}

fn span(left: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
}
