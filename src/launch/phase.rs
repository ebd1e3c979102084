//! The phases of a launch.

/// A phase of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A VM is ready and waits for its command; only for programs that run in a VM.
    Ready,
    /// The sandbox is set up, and the program starts in it.
    Started,
    /// The first bytes of the watched output have arrived. In a VM, it is reported with `Started`.
    Printed,
    /// The program has run for a moment, or is about to run in a VM: the time for work that a short run does not need.
    Lasting,
    /// The program has ended.
    Ended,
    /// The launcher is about to take over the caller's terminal. This may happen more than once.
    Terminal,
}
