//! The meaning of a repeated signal: at first it is the program's alone, then that it should end.
//!
//! Ctrl-C goes to the program, which may take it as it likes. Pressed again at once, it is followed by SIGTERM, which is
//! how programs are told to end; pressed a third time, it ends the sandbox. Signals that processes send mean what they
//! say, however often: a supervisor sends one to a process and to its group, and a notebook interrupts its kernel for ever.
//! In a terminal of the sandbox's own the keys are the program's, as outside a sandbox, and Ctrl-\ is the way out.

use std::time::{Duration, Instant};

/// Two signals further apart than this are two wishes. Long enough to press a key twice, short enough to forget.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Signals that ask for an end, where there is no program that could answer them.
pub const ENDS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Who made a signal, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel (a key on the terminal, a hang-up), for silo's process group.
    Kernel,
    /// A process, for silo's process group.
    Group,
    /// A process, for silo alone.
    Process,
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub signal: i32,
    /// Who made it.
    pub origin: Origin,
}

impl Arrived {
    /// Whether it was for all of silo's process group, so that it is for all of the program's.
    pub fn is_for_group(self) -> bool {
        self.origin != Origin::Process
    }
}

/// What is done with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is passed on.
    Pass,
    /// It is passed on; a program that cannot even be given it is ended.
    Insist,
    /// It is passed on, and SIGTERM after it.
    Terminate,
    /// Everything is killed.
    Kill,
}

/// How often an end was asked for.
#[derive(Debug, Default)]
pub struct Insistence {
    last: Option<Instant>,
    times: u32,
    killed: bool,
}

impl Insistence {
    /// Says whether [`Answer::Kill`] was given.
    pub fn has_killed(&self) -> bool {
        self.killed
    }

    /// Hears a signal at a moment.
    pub fn hear(&mut self, arrived: Arrived, now: Instant) -> Answer {
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
    fn only_keys_that_are_repeated_at_once_end_more_than_they_say() {
        let began = Instant::now();
        let heard = |signals: &[(i32, Origin, u64)]| {
            let mut insistence = Insistence::default();
            let hear = |&(signal, origin, millis): &(i32, Origin, u64)| {
                insistence.hear(Arrived { signal, origin }, began + Duration::from_millis(millis))
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
