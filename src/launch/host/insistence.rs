//! What a signal that comes again and again means: at first it is the program's alone, then that it should end.
//!
//! Ctrl-C goes to the program, which may take it as it likes. Pressed again at once, it is followed by SIGTERM, which is
//! how programs are told to end; pressed a third time, it ends the sandbox. Signals that processes send mean what they
//! say: only SIGTERM and SIGHUP ask for an end, so that an interrupt from a notebook or a debugger can be repeated for ever.
//! In a terminal of the sandbox's own the keys are the program's, as outside a sandbox, and Ctrl-\ is the way out.

use std::time::{Duration, Instant};

/// Two signals further apart than this are two wishes. Long enough to press a key twice, short enough to forget.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Signals that ask for an end, where there is no program that could answer them.
pub const ENDS: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel made it (a key on the terminal, a hang-up) rather than a process.
    pub from_kernel: bool,
}

/// What is done with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is passed on.
    Pass,
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
        let asks_for_an_end = match arrived.signal {
            libc::SIGTERM | libc::SIGHUP => true,
            libc::SIGINT | libc::SIGQUIT => arrived.from_kernel,
            _ => false,
        };
        if !asks_for_an_end {
            return Answer::Pass;
        }
        let again = self.last.is_some_and(|last| now.duration_since(last) <= AT_ONCE);
        self.times = if again { self.times + 1 } else { 1 };
        self.last = Some(now);
        match self.times {
            1 => Answer::Pass,
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
    fn only_what_is_repeated_at_once_is_meant() {
        let began = Instant::now();
        let heard = |signals: &[(i32, bool, u64)]| {
            let mut insistence = Insistence::default();
            let hear = |&(signal, from_kernel, millis): &(i32, bool, u64)| {
                insistence.hear(Arrived { signal, from_kernel }, began + Duration::from_millis(millis))
            };
            signals.iter().map(hear).collect::<Vec<_>>()
        };
        use Answer::{Kill, Pass, Terminate};
        let (int, term, usr1) = (libc::SIGINT, libc::SIGTERM, libc::SIGUSR1);
        assert_eq!(heard(&[(int, true, 0), (int, true, 500), (int, true, 1000), (int, true, 1500)]), [Pass, Terminate, Kill, Kill]);
        assert_eq!(heard(&[(int, true, 0), (int, true, 3000), (int, true, 6000)]), [Pass; 3]);
        assert_eq!(heard(&[(int, false, 0), (int, false, 1), (int, false, 2)]), [Pass; 3], "a notebook interrupts its kernel");
        assert_eq!(heard(&[(term, false, 0), (usr1, false, 1), (term, false, 2), (term, false, 3)]), [Pass, Pass, Terminate, Kill]);
    }
}
