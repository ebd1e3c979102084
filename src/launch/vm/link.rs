//! The control link from silo to the program in a VM: signals, foreground, terminal settings and size, as frames.

use rustix::termios::Termios;
use silo_wire::frame::Frame;

use super::mux::Mux;
use crate::error::Error;
use crate::host::job_control::{Place, ProgramControl};
use crate::host::signal_escalation::Scope;
use crate::host::system;
use crate::host::terminal::Screen;
use crate::linux_abi;

/// Controls the program in the VM.
pub struct Link<'a>(pub &'a mut Mux);

impl ProgramControl for Link<'_> {
    fn signal(&mut self, signal: i32, scope: Scope) -> Result<(), Error> {
        self.0.send(&Frame::Signal { signal: linux_abi::signal(signal), to_group: scope == Scope::Group });
        Ok(())
    }

    fn place(&mut self, place: Place) -> Result<(), Error> {
        self.0.send(&Frame::Foreground { is_foreground: place == Place::Foreground });
        Ok(())
    }

    fn settings(&mut self, screen: &mut Screen, settings: &Termios) -> Result<(), Error> {
        let (modes, codes) = system::terminal(settings);
        self.0.send(&Frame::Settings { modes, codes });
        screen.give_settings(settings)
    }

    fn resize(&mut self, screen: &Screen) -> Result<(), Error> {
        if let Some(size) = screen.size() {
            self.0.send(&Frame::Window { rows: size.ws_row, columns: size.ws_col });
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        // Sends as much as the VM accepts now. The rest is sent, and output is read, after silo continues.
        let _ = self.0.turn(&[]);
        Ok(())
    }
}
