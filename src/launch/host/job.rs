//! The program as a job of the caller's shell: it is stopped and continued with silo, and has the foreground when silo has it.

use super::insistence::Arrived;
use super::system::{self, Signals, Who};
use super::terminal::{Screen, Turn};
use crate::launch::Phase;
use crate::launch::error::Error;

/// Signals that stop a process that uses a terminal in whose background it is.
const BACKGROUND: [i32; 2] = [libc::SIGTTIN, libc::SIGTTOU];

/// The way to the program.
pub trait Inside {
    /// Sends it a signal.
    fn signal(&mut self, signal: i32, to_group: bool) -> Result<(), Error>;
    /// Puts it into the foreground of its terminal, or into the background.
    fn foreground(&mut self, is_foreground: bool) -> Result<(), Error>;
    /// Gives its terminal the settings of the caller's.
    fn settings(&mut self, screen: &mut Screen, settings: &rustix::termios::Termios) -> Result<(), Error>;
    /// Gives its terminal the size of the caller's.
    fn resize(&mut self, screen: &Screen) -> Result<(), Error>;
    /// Sees to it that all of this is on its way: this process is about to stop.
    fn flush(&mut self) -> Result<(), Error>;
}

/// What a job remembers.
#[derive(Debug, Default)]
pub struct Job {
    /// Whether all of silo's process group was asked to stop, so that it need not be once more.
    was_asked: bool,
}

impl Job {
    /// Does with a signal what it is for.
    pub fn pass_on(&mut self, arrived: Arrived, screen: Option<&Screen>, inside: &mut dyn Inside) -> Result<(), Error> {
        if let (libc::SIGWINCH, Some(screen)) = (arrived.signal, screen) {
            return inside.resize(screen);
        }
        if arrived.signal == libc::SIGTSTP {
            self.was_asked = arrived.is_for_group();
        }
        inside.signal(arrived.signal, arrived.is_for_group())
    }

    /// Takes the caller's terminal over or lets go of it, where silo came to the foreground or left it.
    pub fn turn(&mut self, screen: &mut Screen, inside: &mut dyn Inside, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
        match screen.turn() {
            None => {}
            Some(Turn::Came) => take(screen, inside, noted)?,
            Some(Turn::Left) => {
                screen.release();
                inside.foreground(false)?;
            }
        }
        if screen.was_hung_up() {
            inside.signal(libc::SIGHUP, true)?;
            inside.signal(libc::SIGCONT, true)?;
        }
        Ok(())
    }

    /// The program was stopped by a signal: silo stops by the same one, so that the caller's shell has its prompt back, and
    /// both are continued together. Returns the other signals that came meanwhile.
    pub fn stopped(
        &mut self,
        signal: i32,
        mut screen: Option<&mut Screen>,
        signals: &Signals,
        inside: &mut dyn Inside,
        noted: &mut dyn FnMut(Phase),
    ) -> Result<Vec<Arrived>, Error> {
        let is_use = BACKGROUND.contains(&signal);
        if let Some(screen) = screen.as_deref_mut().filter(|_| is_use) {
            screen.note_use();
            if !screen.is_taken() && screen.is_foreground() {
                take(screen, inside, noted)?;
                inside.signal(libc::SIGCONT, true)?;
                return Ok(Vec::new());
            }
        }
        if let Some(screen) = screen.as_deref_mut() {
            screen.release();
        }
        inside.flush()?;
        let was_asked = std::mem::take(&mut self.was_asked);
        system::stop_by(signal, if signal == libc::SIGSTOP || was_asked { Who::This } else { Who::Group })?;
        let mut others = Vec::new();
        let mut was_continued = false;
        while let Some(arrived) = signals.next()? {
            match arrived.signal {
                libc::SIGCONT => was_continued = true,
                _ => others.push(arrived),
            }
        }
        if let Some(screen) = screen {
            match screen.turn() {
                Some(Turn::Came) => take(screen, inside, noted)?,
                // No shell can give it the foreground, and the kernel stops no such process: its reads end.
                _ if is_use && !was_continued => {
                    inside.foreground(true)?;
                    screen.type_end();
                }
                _ => inside.foreground(false)?,
            }
        }
        // Whoever continued silo did so by a signal; once is enough.
        inside.signal(libc::SIGCONT, true)?;
        Ok(others)
    }
}

/// Takes the caller's terminal over, and gives the program the foreground of its own.
pub fn take(screen: &mut Screen, inside: &mut dyn Inside, noted: &mut dyn FnMut(Phase)) -> Result<(), Error> {
    noted(Phase::Terminal);
    let settings = screen.take()?;
    inside.settings(screen, &settings)?;
    inside.resize(screen)?;
    inside.foreground(true)
}
