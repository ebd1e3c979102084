//! How far the conversation with a machine is, and how long each part of it may take.

use std::fmt;
use std::time::Duration;

/// A part of the conversation. Each allows its own frames; none comes again once it is over, but for
/// [`Phase::Boot`] before a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The machine has not said hello.
    Boot,
    /// The machine makes the sandbox; the program has not begun.
    Setup,
    /// The program runs.
    Running,
    /// The machine has reported how the program ended. Nothing more is read from the link; only what arrived before is
    /// written out.
    Reported,
    /// The link is closed or broken. Nothing is read, sent or kept any more.
    Over,
}

/// Time that a machine has for a phase. A program itself runs as long as it likes.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the start of QEMU to hello.
    pub hello: Duration,
    /// From the job to the beginning of the program.
    pub begin: Duration,
}

impl Patience {
    /// Time for a machine that boots: three seconds by translation on a quiet machine. Ten at once on two processors that
    /// have other work take a minute. One that takes longer hangs.
    pub const BOOTED: Patience = Patience { hello: Duration::from_secs(180), begin: Duration::from_secs(180) };
    /// Time for a machine that is restored from a snapshot: a tenth of a second, and a few seconds on a busy host.
    pub const RESTORED: Patience = Patience { hello: Duration::from_secs(60), begin: Duration::from_secs(180) };

    /// Returns the time for a phase, if it is limited, and what the machine failed to do when it is over.
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
