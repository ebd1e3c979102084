//! A running QEMU: a process in a sandbox that reports its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::qmp::Qmp;
use super::unreported_end::UnreportedEnd;
use crate::error::{Error, host};
use crate::native::init_messages::{self, Report};
use crate::native::supervise::Sandbox;

/// A VM in QEMU; dropping it ends the VM.
pub struct Running {
    /// Kills QEMU when dropped.
    _sandbox: Sandbox,
    socket: OwnedFd,
    control: Option<Qmp>,
}

impl Running {
    /// Takes ownership of QEMU's sandbox.
    pub fn new(sandbox: Sandbox, socket: OwnedFd, control: Option<Qmp>) -> Running {
        Running { _sandbox: sandbox, socket, control }
    }

    /// Returns the QMP connection, if there is one.
    pub fn control(&mut self) -> Option<&mut Qmp> {
        self.control.as_mut()
    }

    /// Returns the descriptor that is readable when a report is available.
    pub fn saying(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads a report, once one is available; returns the reason if QEMU has ended.
    pub fn poll_end(&self) -> Result<Option<UnreportedEnd>, Error> {
        Ok(match host(init_messages::next_report(self.socket.as_fd()), "receiving from the sandbox of QEMU")? {
            Some(Report::Started | Report::Stopped(_) | Report::Last) => None,
            report => Some(to_unreported_end(report)),
        })
    }
}

fn to_unreported_end(report: Option<Report>) -> UnreportedEnd {
    match report {
        Some(Report::Failed(failure)) => UnreportedEnd::Failed(failure),
        Some(Report::Exited(code)) => UnreportedEnd::Exited(code),
        Some(Report::Killed(signal)) => UnreportedEnd::Killed(signal),
        _ => UnreportedEnd::Ended("ended by itself".to_owned()),
    }
}
