//! The vm tier: a machine of its own for each launch, with its own kernel, ended with its program.
//!
//! The machine is QEMU, from an image like any other, in a sandbox of the native tier ([`machine`] says what it sees). Its
//! first process is silo again ([`guest`]), which launches the program in a sandbox of the native tier *inside*. Between
//! the two is one port that carries frames ([`mux`]). So a program sees on both tiers the same, made by the same code, and
//! between it and the host stand two walls more: the machine, and the sandbox around QEMU.
//!
//! What counts is what the machine says in its last frame. That QEMU ends, in whatever way, says nothing.
//!
//! That is Linux. On macOS the machine is one of Apple's framework ([`apple`] says what it sees, `vz` starts it), without a
//! sandbox around it; the guest, the port and who attends to it here ([`Watch`]) are the same.

#[cfg(target_os = "linux")]
pub mod guest;

mod changes;
mod connect;
#[cfg(target_os = "linux")]
mod control;
pub mod initial;
#[cfg(target_os = "linux")]
mod kvm;
mod linger;
// Each system has one of its two.
#[allow(dead_code)]
mod program;
#[cfg(target_os = "linux")]
mod qemu;
#[cfg(target_os = "linux")]
pub mod snapshot;
#[cfg(target_os = "linux")]
mod start;
mod stream;

// What of these QEMU and the guest use is not used elsewhere.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod machine;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod mux;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod shares;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod tty;

// Data that is tested where Apple's framework is not.
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod apple;
#[cfg(target_os = "macos")]
mod framework;
#[cfg(target_os = "macos")]
mod vz;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::termios::tcgetwinsize;
use rustix::time::{ClockId, clock_gettime};
use silo_wire::frame::{self, AFTER, ERRORS, Frame, OUTPUT, VERSION};

use super::error::Error;
use super::foreign;
use super::host::failure::{Failure, Stage, failed};
use super::host::insistence::{Answer, Arrived, Insistence};
use super::host::notices::Notices;
use super::host::outlet::Outlet;
use super::host::streams::{self, Streams, host};
use super::host::system::{Signals, stop, stop_with_group};
use super::host::terminal::Screen;
use super::spec::{Machine, Spec, Upper};
use super::{Exit, Phase};
use linger::{LOOK, Linger};
use machine::{Inside, Job};
use mux::{Mux, Source};

/// See [`crate::launch::unpack_changes`].
pub use changes::unpack as unpack_changes;

/// What belongs to a program of silo as a machine's first process.
#[cfg(target_os = "macos")]
pub use program::beside as first_process;
#[cfg(target_os = "linux")]
pub use program::of as first_process;

#[cfg(target_os = "linux")]
pub use kvm::works as runs_guests;
#[cfg(target_os = "linux")]
use qemu::Running;
#[cfg(target_os = "linux")]
use start::begin;
#[cfg(target_os = "linux")]
pub use start::probe;

#[cfg(target_os = "macos")]
use vz::Running;
#[cfg(target_os = "macos")]
use vz::begin;
#[cfg(target_os = "macos")]
pub use vz::probe;

/// How long a machine may take until its first process is heard: it takes three seconds by translation on a quiet machine,
/// and ten at once on two processors that have other work take a minute. One that takes longer hangs.
const BOOT: Duration = Duration::from_secs(180);
/// The most of QEMU's messages that is told.
const MAX_LOG_BYTES: usize = 4096;

/// See [`crate::launch::launch`].
pub fn launch(spec: &Spec, machine: &Machine, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    // From here on no signal is lost: what arrives before there is a program is forwarded to it.
    let signals = Signals::take_over()?;
    let streams = streams::streams(&spec.stdio)?;
    let notices = Notices::new(&streams)?;
    let outlet = spec.network.as_ref().map(|network| Outlet::open(network, notices.clone())).transpose()?;
    let (mut watch, inside) = match begin(spec, machine, &signals) {
        Err(Error::Interrupted { signal }) => return Ok(Exit::Signal(signal)),
        begun => begun?,
    };
    noted(Phase::Ready);
    watch.screen = Screen::take_over(&streams, notices)?;
    watch.outlet = outlet;
    let after = watch.begin(spec, inside, &streams)?;
    let outcome = watch.run(&signals, Until::Ended, noted);
    noted(Phase::Ended);
    let exit = watch.close(outcome)?;
    if let (Some(after), Upper::Kept { upper, .. }) = (after, &spec.root.upper) {
        connect::changed(after, upper)?;
    }
    Ok(exit)
}

/// How long a machine is attended to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Its first process is heard.
    Heard,
    /// It has said its last word, and everything before it was written.
    Ended,
}

/// What became of a machine that has not said its last word.
enum Gone {
    /// It was never made.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    Failed(Failure),
    /// It has ended, in this way.
    Ended(String),
}

/// A machine at work.
struct Watch<'a> {
    running: Running,
    log: OwnedFd,
    /// What QEMU and the machine's kernel said last.
    words: Vec<u8>,
    mux: Mux,
    screen: Option<Screen>,
    outlet: Option<Outlet<'a>>,
    /// What the machine said last.
    end: Option<frame::Report>,
    /// Whether its first process was heard.
    is_booted: bool,
    /// Whether its program has begun, which was not noted yet.
    has_started: bool,
    /// Whether its program was stopped, which was not answered yet.
    has_stopped: bool,
    /// How long it was waited for what the program wrote to the network last.
    linger: Linger,
}

impl Watch<'_> {
    /// Begins with a machine that has not been heard.
    fn new(running: Running, log: OwnedFd, mux: Mux) -> Self {
        Watch {
            running,
            log,
            words: Vec::new(),
            mux,
            screen: None,
            outlet: None,
            end: None,
            is_booted: false,
            has_started: false,
            has_stopped: false,
            linger: Linger::default(),
        }
    }

    /// Connects the program's streams, and says what is to be done. What the program changes comes into the file.
    fn begin(&mut self, spec: &Spec, inside: Inside, streams: &Streams) -> Result<Option<File>, Error> {
        let (terminal, errors) = connect::streams(&mut self.mux, self.screen.as_mut(), streams)?;
        if let Some(outlet) = &mut self.outlet {
            connect::network(&mut self.mux, outlet)?;
        }
        let after = match &spec.root.upper {
            Upper::Kept { upper, .. } => Some(connect::changes(&mut self.mux, upper)?),
            Upper::Ephemeral { .. } => None,
        };
        let now = clock_gettime(ClockId::Realtime);
        let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let tasks = spec.limits.tasks;
        let has_disk = spec.machine.as_ref().is_some_and(|machine| machine.disk.is_some());
        let now = (now.tv_sec, now.tv_nsec);
        let Inside { spec, shares, sharing } = inside;
        let job = Job { spec, user, has_disk, shares, sharing, terminal, errors, tasks, now };
        connect::job(&mut self.mux, &serde_json::to_vec(&job)?)?;
        Ok(after)
    }

    fn is_at(&mut self, until: Until) -> bool {
        match until {
            Until::Heard => self.is_booted,
            Until::Ended => {
                self.end.is_some()
                    && ![OUTPUT, ERRORS, AFTER].into_iter().any(|stream| self.mux.has(stream))
                    && (!self.mux.owes() || self.linger.is_over(self.mux.moved(), Instant::now()))
            }
        }
    }

    /// Carries until then.
    fn run(&mut self, signals: &Signals, until: Until, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
        let began = Instant::now();
        let mut insistence = Insistence::default();
        while !self.is_at(until) {
            let deadline = (until == Until::Heard).then(|| (began + BOOT).saturating_duration_since(Instant::now()));
            if deadline.is_some_and(|left| left.is_zero()) {
                return Err(self.lost("did not start within three minutes"));
            }
            let mut fds = vec![PollFd::from_borrowed_fd(self.running.saying(), PollFlags::IN), PollFd::new(&self.log, PollFlags::IN)];
            fds.push(PollFd::from_borrowed_fd(signals.arriving(), PollFlags::IN));
            let streams = self.mux.interest();
            fds.extend(streams.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
            let mut keys = Vec::new();
            if let Some(screen) = &self.screen {
                screen.interest(&mut keys);
            }
            fds.extend(keys.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
            let asked = self.outlet.as_ref().and_then(Outlet::asked);
            fds.extend(asked.map(|channel| PollFd::from_borrowed_fd(channel, PollFlags::IN)));
            let lingers = (self.end.is_some() && self.mux.owes()).then_some(LOOK);
            let patience = self.screen.as_ref().and_then(Screen::patience).or(lingers).or_else(|| deadline.map(span));
            let ready = match poll(&mut fds, patience.as_ref()) {
                Err(Errno::INTR) => continue,
                polled => host(polled, "waiting for the machine")?,
            };
            let mut events = fds.iter().map(PollFd::revents).collect::<Vec<_>>().into_iter();
            let mut one = || events.next().is_some_and(|flags| !flags.is_empty());
            let (said, logged, signalled) = (one(), one(), one());
            let streams: Vec<(Source, PollFlags)> = streams.iter().map(|(source, ..)| *source).zip(events.by_ref()).collect();
            let keys: Vec<PollFlags> = events.by_ref().take(keys.len()).collect();
            let asked = events.next().is_some_and(|flags| !flags.is_empty());
            drop(fds);
            if logged {
                self.note();
            }
            if signalled {
                while let Some(signal) = signals.next()? {
                    match insistence.hear(signal, Instant::now()) {
                        Answer::Pass => self.pass_on(signal)?,
                        Answer::Terminate => {
                            self.pass_on(signal)?;
                            self.mux.send(&Frame::Signal { signal: foreign::signal(libc::SIGTERM), to_group: true });
                        }
                        Answer::Kill => return Err(Error::Interrupted { signal: libc::SIGKILL }),
                    }
                }
            }
            if let Some(screen) = &mut self.screen {
                screen.carry(&keys);
                if ready == 0 {
                    screen.look_again();
                }
            }
            if let Some(outlet) = self.outlet.as_mut().filter(|_| asked) {
                outlet.serve()?;
            }
            self.listen(&streams)?;
            if std::mem::take(&mut self.has_started) {
                noted(Phase::Started);
            }
            if std::mem::take(&mut self.has_stopped) {
                self.stop_together(signals)?;
            }
            if said
                && self.end.is_none()
                && let Some(gone) = self.running.look()?
            {
                self.hear_out()?;
                if self.end.is_none() {
                    return Err(self.gone(gone));
                }
            }
        }
        Ok(())
    }

    /// Hears what the machine says.
    fn listen(&mut self, streams: &[(Source, PollFlags)]) -> Result<(), Error> {
        let turned = self.mux.turn(streams);
        self.take_frames()?;
        match turned {
            Ok(()) => Ok(()),
            Err(_) if self.end.is_some() => Ok(()),
            Err(mux::Error::Gone) => {
                let gone = self.running.last_word();
                Err(self.gone(gone))
            }
            Err(mux::Error::Broken) => Err(self.lost("says what no machine says")),
            Err(mux::Error::Io(source)) => Err(Error::Host { step: "talking to the machine".to_owned(), source }),
        }
    }

    fn take_frames(&mut self) -> Result<(), Error> {
        while let Some(frame) = self.mux.next_frame() {
            match frame {
                Frame::Hello { version: VERSION } if !self.is_booted => self.is_booted = true,
                Frame::Started if self.is_booted => self.has_started = true,
                Frame::Stopped if self.is_booted => self.has_stopped = true,
                Frame::Report(report) if self.is_booted && self.end.is_none() => self.end = Some(report),
                _ => return Err(self.lost("says what no machine of this version says")),
            }
        }
        Ok(())
    }

    /// Hears what of a machine that has ended is under way still.
    fn hear_out(&mut self) -> Result<(), Error> {
        while self.end.is_none() && self.mux.turn(&[(Source::Link, PollFlags::IN)]).is_ok() {
            let mut link = [PollFd::from_borrowed_fd(self.mux.link(), PollFlags::IN)];
            let waits = host(poll(&mut link, Some(&Timespec::default())), "waiting for the machine")?;
            self.take_frames()?;
            if waits == 0 {
                break;
            }
        }
        self.take_frames()
    }

    /// The program that is the machine has ended, and the machine has not said why.
    fn gone(&mut self, gone: Gone) -> Error {
        self.note();
        match gone {
            Gone::Failed(failure) => failed(failure),
            Gone::Ended(how) => self.lost(&how),
        }
    }

    /// Reads what QEMU and the machine's kernel say, and keeps the last of it.
    fn note(&mut self) {
        let mut piece = [0; MAX_LOG_BYTES];
        if let Ok(length) = rustix::io::read(&self.log, &mut piece) {
            self.words.extend_from_slice(&piece[..length]);
            let old = self.words.len().saturating_sub(MAX_LOG_BYTES);
            self.words.drain(..old);
        }
    }

    /// Says what became of the machine, with QEMU's own words.
    fn lost(&self, what: &str) -> Error {
        // A guest may say what it likes; none of it may move a terminal's cursor.
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let words: String =
            String::from_utf8_lossy(&self.words).trim().replace("\r\n", "; ").replace('\n', "; ").chars().map(plain).collect();
        let words = if words.is_empty() { String::new() } else { format!(": {words}") };
        Error::Machine { what: format!("{what}{words}") }
    }

    /// Does with a signal what it is for.
    fn pass_on(&mut self, arrived: Arrived) -> Result<(), Error> {
        let ends = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT].contains(&arrived.signal);
        if ends && (!self.is_booted || self.end.is_some()) {
            // There is no program yet that could hear it, or none any more.
            return Err(Error::Interrupted { signal: arrived.signal });
        }
        let mut send = |signal: i32| {
            let signal = foreign::signal(signal);
            self.mux.send(&Frame::Signal { signal, to_group: arrived.from_kernel });
        };
        match (arrived.signal, &mut self.screen) {
            (libc::SIGWINCH, Some(_)) => {
                self.resize();
                Ok(())
            }
            // Stop for the caller's shell; what runs in the terminal inside runs on, as under ssh.
            (libc::SIGTSTP, Some(screen)) => {
                screen.release();
                stop()?;
                screen.retake()
            }
            (libc::SIGTSTP, None) => {
                send(libc::SIGSTOP);
                // It must be on its way before this process stops.
                let _ = self.mux.turn(&[]);
                stop()?;
                self.mux.send(&Frame::Signal { signal: foreign::signal(libc::SIGCONT), to_group: arrived.from_kernel });
                Ok(())
            }
            (signal, _) => {
                send(signal);
                Ok(())
            }
        }
    }

    /// Tells the machine how large the terminal is.
    fn resize(&mut self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdout()) {
            self.mux.send(&Frame::Window { rows: size.ws_row, columns: size.ws_col });
        }
    }

    /// The program was stopped in its terminal: silo stops with it, and both are continued together.
    fn stop_together(&mut self, signals: &Signals) -> Result<(), Error> {
        if let Some(screen) = &mut self.screen {
            screen.release();
            stop_with_group()?;
            screen.retake()?;
            self.resize();
        }
        // Whoever continued silo did so by a signal, which waits to be passed on; once is enough.
        while let Some(signal) = signals.next()? {
            if signal.signal != libc::SIGCONT {
                self.pass_on(signal)?;
            }
        }
        self.mux.send(&Frame::Signal { signal: foreign::signal(libc::SIGCONT), to_group: true });
        Ok(())
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
    fn close(mut self, outcome: Result<(), Error>) -> Result<Exit, Error> {
        self.serve_last()?;
        // Nothing of it is needed any more: its memory, its disk's mount and its sandbox go with it.
        drop(self.running);
        drop(self.mux);
        if let Some(screen) = self.screen {
            screen.drain();
        }
        match outcome {
            Err(Error::Interrupted { signal }) => return Ok(Exit::Signal(signal)),
            outcome => outcome?,
        }
        match self.end {
            Some(frame::Report::Exited(code)) => Ok(Exit::Code(code)),
            Some(frame::Report::Killed(signal)) => Ok(Exit::Signal(i32::from(signal))),
            Some(frame::Report::Failed { stage, errno, step }) => {
                let stage = match stage {
                    frame::Stage::Setup => Stage::Setup,
                    frame::Stage::Find => Stage::Find,
                    frame::Stage::Execute => Stage::Execute,
                };
                Err(failed(Failure { stage, step, errno }))
            }
            None => Err(Error::Lost),
        }
    }
}

fn span(left: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
}
