//! The phases of a conversation with a VM, and their time limits.

use std::fmt;
use std::time::Duration;

use silo_base::system::Arch;

/// A phase of the conversation. Each phase allows only certain frames. No phase is repeated, except [`Phase::Boot`] before a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The VM has not sent hello.
    Boot,
    /// The VM sets up the sandbox; the program has not started.
    Setup,
    /// The program runs.
    Running,
    /// The VM has reported the program's end. No more data is read from the link; only data received before is written out.
    Reported,
    /// The link is closed or broken. No data is read, sent or kept.
    Over,
}

/// Time limits of a VM's phases. The program itself has none.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    /// From the start of QEMU to hello.
    pub hello: Duration,
    /// From the job to the program's start.
    pub begin: Duration,
}

/// Longer time limits of a VM of another processor: each of its starts took up to three times as long on a busy host.
const FOREIGN_FACTOR: u32 = 3;

impl TimeLimits {
    /// Time limits for a VM that boots. Under TCG, hello takes three seconds on a quiet host, and a minute if ten VMs boot at the same time
    /// on two busy processors. A VM that takes longer hangs.
    pub const BOOTED: TimeLimits = TimeLimits { hello: Duration::from_secs(180), begin: Duration::from_secs(180) };
    /// Time limits for a VM that is restored from a snapshot: hello takes 0.1 s, and a few seconds on a busy host.
    pub const RESTORED: TimeLimits = TimeLimits { hello: Duration::from_secs(60), begin: Duration::from_secs(180) };

    /// Returns the limits for a VM of an architecture. One of another processor than the host's is a few times slower than others.
    pub fn on(self, arch: Arch) -> TimeLimits {
        let factor = if arch == Arch::host() { 1 } else { FOREIGN_FACTOR };
        TimeLimits { hello: self.hello * factor, begin: self.begin * factor }
    }

    /// Returns the time limit for a phase, if it has one, and the error text for exceeding it.
    pub fn of(self, phase: Phase) -> Option<(Duration, &'static str)> {
        match phase {
            Phase::Boot => Some((self.hello, "did not start")),
            Phase::Setup => Some((self.begin, "did not begin the program")),
            Phase::Running | Phase::Reported | Phase::Over => None,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Phase::Boot => "before hello",
            Phase::Setup => "before the program began",
            Phase::Running => "while the program ran",
            Phase::Reported => "after its report",
            Phase::Over => "after the end",
        })
    }
}
