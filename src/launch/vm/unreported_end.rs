//! The ways in which a VM ends without a report.

use crate::failure::Failure;

/// The way a VM ended without a report.
#[derive(Clone, Debug)]
pub enum UnreportedEnd {
    /// Its sandbox could not be created.
    Failed(Failure),
    /// The hypervisor exited with this code.
    Exited(u8),
    /// The hypervisor was killed by this signal.
    Killed(u8),
    /// It ended in another way.
    Ended(String),
    /// It did not answer in time, closed its port, or violated the protocol.
    Misbehaved,
}
