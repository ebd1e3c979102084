//! The program as a job of the caller's shell: it stops and continues with silo, and is in the foreground when silo is.

use super::signal_escalation::{ReceivedSignal, Scope};
use super::system::{self, SignalTarget, Signals};
use super::terminal::{ForegroundChange, Screen};
use crate::error::Error;
use crate::phase::Phase;

/// Signals that stop a background process that uses its terminal.
const BACKGROUND: [i32; 2] = [libc::SIGTTIN, libc::SIGTTOU];

/// The place of a program on its terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It gets the keys.
    Foreground,
    /// It is stopped when it reads the terminal.
    Background,
}

/// Control of the program inside the sandbox.
pub trait ProgramControl {
    /// Sends the program a signal.
    fn signal(&mut self, signal: i32, scope: Scope) -> Result<(), Error>;
    /// Moves the program to the foreground or background of its terminal.
    fn place(&mut self, place: Place) -> Result<(), Error>;
    /// Applies the settings of the caller's terminal to the program's terminal.
    fn settings(&mut self, screen: &mut Screen, settings: &rustix::termios::Termios) -> Result<(), Error>;
    /// Applies the size of the caller's terminal to the program's terminal.
    fn resize(&mut self, screen: &Screen) -> Result<(), Error>;
    /// Sends all buffered commands, because this process is about to stop.
    fn flush(&mut self) -> Result<(), Error>;
}

/// The surroundings of a job: the caller's terminal and signals.
pub struct Around<'a> {
    /// The caller's terminal, if the sandbox has one of its own.
    pub screen: Option<&'a mut Screen>,
    /// The signals of this process.
    pub signals: &'a Signals,
    /// Receives each phase.
    pub noted: &'a mut dyn FnMut(Phase),
}

/// The signals that arrived while silo was stopped.
#[derive(Debug, Default)]
pub struct DuringStop {
    /// Forward these, then call [`Job::resume`].
    pub before: Vec<ReceivedSignal>,
    /// Forward these afterwards: new stop signals, which continuing would discard.
    pub after: Vec<ReceivedSignal>,
}

/// State of a job.
#[derive(Debug, Default)]
pub struct Job {
    /// True if silo's whole process group received the stop signal, so it must not be sent again.
    was_asked: bool,
}

impl Job {
    /// Forwards a signal to the sandbox; a resize updates the terminal's size.
    pub fn forward(&mut self, arrived: ReceivedSignal, screen: Option<&Screen>, inside: &mut dyn ProgramControl) -> Result<(), Error> {
        if let (libc::SIGWINCH, Some(screen)) = (arrived.signal, screen) {
            return inside.resize(screen);
        }
        if arrived.signal == libc::SIGTSTP {
            self.was_asked = arrived.scope() == Scope::Group;
        }
        inside.signal(arrived.signal, arrived.scope())
    }

    /// Takes over or releases the caller's terminal after silo entered or left the foreground.
    pub fn turn(&mut self, screen: &mut Screen, inside: &mut dyn ProgramControl, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
        match screen.turn() {
            None => {}
            Some(ForegroundChange::Came) => take(screen, inside, noted)?,
            Some(ForegroundChange::Left) => {
                screen.release();
                screen.note_order();
                inside.place(Place::Background)?;
            }
        }
        if screen.was_hung_up() {
            inside.signal(libc::SIGHUP, Scope::Group)?;
            inside.signal(libc::SIGCONT, Scope::Group)?;
        }
        Ok(())
    }

    /// Handles a stopped program: silo stops by the same signal, so that the caller's shell shows its prompt, until it is continued.
    /// Returns the other signals that arrived during the stop.
    pub fn stopped(&mut self, signal: i32, around: Around<'_>, inside: &mut dyn ProgramControl) -> Result<DuringStop, Error> {
        let Around { mut screen, signals, noted } = around;
        let is_use = BACKGROUND.contains(&signal);
        if let Some(screen) = screen.as_deref_mut().filter(|_| is_use) {
            screen.note_use();
            if !screen.is_taken() && screen.is_foreground() {
                take(screen, inside, noted)?;
                return Ok(DuringStop::default());
            }
        }
        if let Some(screen) = screen.as_deref_mut() {
            screen.release();
        }
        inside.flush()?;
        let was_asked = std::mem::take(&mut self.was_asked);
        system::stop_by(signal, if signal == libc::SIGSTOP || was_asked { SignalTarget::This } else { SignalTarget::Group })?;
        let mut others = DuringStop::default();
        let mut was_continued = false;
        while let Some(arrived) = signals.next()? {
            match arrived.signal {
                libc::SIGCONT => was_continued = true,
                // The kernel has discarded those from before SIGCONT.
                libc::SIGTSTP => others.after.push(arrived),
                _ => others.before.push(arrived),
            }
        }
        if let Some(screen) = screen {
            match screen.turn() {
                Some(ForegroundChange::Came) => take(screen, inside, noted)?,
                // No shell can put silo into the foreground, and the kernel does not stop an orphaned process group: end the program's
                // input.
                _ if is_use && !was_continued => {
                    screen.note_order();
                    inside.place(Place::Foreground)?;
                    screen.type_end();
                }
                _ => {
                    screen.note_order();
                    inside.place(Place::Background)?;
                }
            }
        }
        Ok(others)
    }

    /// Continues the stopped program. Other signals go first, as they are pending outside, too: a signal that
    /// arrives just after SIGCONT can fall between the end of an interrupted system call and its restart, and does not interrupt it then.
    pub fn resume(&self, inside: &mut dyn ProgramControl) -> Result<(), Error> {
        inside.signal(libc::SIGCONT, Scope::Group)
    }
}

/// Takes over the caller's terminal, and moves the program to the foreground of its own.
pub fn take(screen: &mut Screen, inside: &mut dyn ProgramControl, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
    noted(Phase::Terminal);
    let settings = screen.take()?;
    inside.settings(screen, &settings)?;
    inside.resize(screen)?;
    screen.note_order();
    inside.place(Place::Foreground)
}
