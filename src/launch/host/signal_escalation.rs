//! Signal escalation: repeated requests to end become stronger.
//!
//! Ctrl-C goes to the program, which may handle it in any way. A second Ctrl-C within two seconds also sends SIGTERM; a third one kills the
//! sandbox. Signals from processes never escalate like that: a supervisor sends one to a process and to its group, and a notebook
//! interrupts its kernel many times. With a terminal of the sandbox's own, keys go to the program as outside a sandbox, and Ctrl-\ ends it.

use std::time::{Duration, Instant};

/// Most time between two signals that count as repeated: long enough to press a key twice.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Signals that ask silo to end while there is no program to handle them.
pub const ENDS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// The sender and the target of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel (a key on the terminal, a hang-up), for silo's process group.
    Kernel,
    /// A process, for silo's process group.
    Group,
    /// A process, for silo alone.
    Process,
}

/// The target of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The program alone, as for a signal from a process.
    Program,
    /// Its process group, as for a signal from the terminal.
    Group,
}

/// A received signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedSignal {
    /// The signal number.
    pub signal: i32,
    /// The sender.
    pub origin: Origin,
}

impl ReceivedSignal {
    /// Returns the target inside: a signal to silo's whole process group is forwarded to the program's whole group.
    pub fn scope(self) -> Scope {
        match self.origin {
            Origin::Kernel | Origin::Group => Scope::Group,
            Origin::Process => Scope::Program,
        }
    }
}

/// The reaction to a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Forward it.
    Pass,
    /// Forward it; kill the program if it cannot be delivered.
    Insist,
    /// Forward it, and send SIGTERM after it.
    Terminate,
    /// Kill the sandbox.
    Kill,
}

/// Counts requests to end.
#[derive(Debug, Default)]
pub struct SignalEscalation {
    last: Option<Instant>,
    times: u32,
    killed: bool,
}

impl SignalEscalation {
    /// True if [`Answer::Kill`] was returned.
    pub fn has_killed(&self) -> bool {
        self.killed
    }

    /// Decides the reaction to a signal that arrived at `now`.
    pub fn hear(&mut self, arrived: ReceivedSignal, now: Instant) -> Answer {
        let is_key = arrived.origin == Origin::Kernel && [libc::SIGINT, libc::SIGQUIT].contains(&arrived.signal);
        if !is_key && ![libc::SIGTERM, libc::SIGHUP].contains(&arrived.signal) {
            return Answer::Pass;
        }
        let again = self.last.is_some_and(|last| now.duration_since(last) <= AT_ONCE);
        self.times = if again { self.times + 1 } else { 1 };
        self.last = Some(now);
        match self.times {
            1 => Answer::Pass,
            _ if !is_key => Answer::Insist,
            2 => Answer::Terminate,
            _ => {
                self.killed = true;
                Answer::Kill
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quickly_repeated_keys_escalate() {
        let began = Instant::now();
        let heard = |signals: &[(i32, Origin, u64)]| {
            let mut insistence = SignalEscalation::default();
            let hear = |&(signal, origin, millis): &(i32, Origin, u64)| {
                insistence.hear(ReceivedSignal { signal, origin }, began + Duration::from_millis(millis))
            };
            signals.iter().map(hear).collect::<Vec<_>>()
        };
        use Answer::{Insist, Kill, Pass, Terminate};
        use Origin::{Group, Kernel, Process};
        let (int, term, hup, usr1) = (libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGUSR1);
        assert_eq!(heard(&[(int, Kernel, 0), (int, Kernel, 500), (int, Kernel, 1000), (int, Kernel, 1500)]), [Pass, Terminate, Kill, Kill]);
        assert_eq!(heard(&[(int, Kernel, 0), (int, Kernel, 3000), (int, Kernel, 6000)]), [Pass; 3]);
        assert_eq!(heard(&[(int, Process, 0), (int, Group, 1), (int, Process, 2)]), [Pass; 3], "a notebook interrupts its kernel");
        assert_eq!(heard(&[(term, Process, 0), (usr1, Process, 1), (term, Group, 2), (term, Group, 3)]), [Pass, Pass, Insist, Insist]);
        assert_eq!(heard(&[(hup, Kernel, 0), (hup, Group, 1), (hup, Kernel, 2)]), [Pass, Insist, Insist], "a hang-up that comes twice");
    }
}
