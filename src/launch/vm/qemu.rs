//! QEMU at work, as whoever attends to the machine sees it: a process in a sandbox that has a last word of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::control::Control;
use super::watch::Gone;
use crate::launch::error::Error;
use crate::launch::host::streams::host;
use crate::launch::native::supervise::Sandbox;
use crate::launch::native::wire::{self, Report};

/// A machine that QEMU runs; ended when dropped.
pub struct Running {
    /// Kills it when it is dropped.
    _sandbox: Sandbox,
    socket: OwnedFd,
    control: Option<Control>,
}

impl Running {
    /// Takes charge of QEMU's sandbox.
    pub fn new(sandbox: Sandbox, socket: OwnedFd, control: Option<Control>) -> Running {
        Running { _sandbox: sandbox, socket, control }
    }

    /// The way to QEMU itself, if there is one.
    pub fn control(&mut self) -> Option<&mut Control> {
        self.control.as_mut()
    }

    /// What is readable when it has something to say.
    pub fn saying(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Hears what it says, once that is readable; whether that was its last word.
    pub fn look(&self) -> Result<Option<Gone>, Error> {
        Ok(match host(wire::next_report(self.socket.as_fd()), "listening to the machine's sandbox")? {
            Some(Report::Started | Report::Stopped(_)) => None,
            report => Some(told(report)),
        })
    }
}

fn told(report: Option<Report>) -> Gone {
    match report {
        Some(Report::Failed(failure)) => Gone::Failed(failure),
        Some(Report::Exited(code)) => Gone::Exited(code),
        Some(Report::Killed(signal)) => Gone::Killed(signal),
        _ => Gone::Ended("ended by itself".to_owned()),
    }
}
