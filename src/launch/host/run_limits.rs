//! The limits of a run that silo itself enforces: its time, and its data over the network.
//!
//! At a limit the program gets SIGTERM, and after [`GRACE`] the sandbox is killed.

use std::time::{Duration, Instant};

use crate::error::Limit;
use crate::spec::Spec;

/// Time for the program to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// The limits of a run, and the progress to them.
#[derive(Debug, Default)]
pub struct RunLimits {
    seconds: Option<u64>,
    deadline: Option<Instant>,
    reached: Option<Limit>,
    kill: Option<Instant>,
}

/// The action at a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAction {
    /// None.
    None,
    /// Send SIGTERM to the program.
    Terminate,
    /// Kill the sandbox.
    Kill,
}

impl RunLimits {
    /// Returns the limits of a run.
    pub fn of(spec: &Spec) -> RunLimits {
        RunLimits { seconds: spec.limits.time_seconds, ..RunLimits::default() }
    }

    /// Starts the time.
    pub fn start(&mut self, now: Instant) {
        // A limit beyond the clock's range is none.
        self.deadline = self.seconds.and_then(|seconds| now.checked_add(Duration::from_secs(seconds)));
    }

    /// Returns the next time at which [`RunLimits::check`] is due.
    pub fn next(&self) -> Option<Instant> {
        if self.reached.is_some() { self.kill } else { self.deadline }
    }

    /// Decides the action; `network` is the limit of the network, if it is reached.
    pub fn check(&mut self, now: Instant, network: Option<Limit>) -> LimitAction {
        if self.reached.is_some() {
            if self.kill.is_some_and(|kill| kill <= now) {
                self.kill = None;
                return LimitAction::Kill;
            }
            return LimitAction::None;
        }
        let time = self.deadline.filter(|deadline| *deadline <= now).and(self.seconds).map(|seconds| Limit::Time { seconds });
        self.reached = time.or(network);
        if self.reached.is_none() {
            return LimitAction::None;
        }
        self.kill = Some(now + GRACE);
        LimitAction::Terminate
    }

    /// Ends the watch: the program has ended.
    pub fn stop(&mut self) {
        (self.deadline, self.kill) = (None, None);
    }

    /// Returns the limit at which the run was ended.
    pub fn reached(&self) -> Option<Limit> {
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_asked_to_end_once_and_then_killed_once() {
        use LimitAction::{Kill, None as Nothing, Terminate};
        let began = Instant::now();
        let network = Limit::Network { bytes: 9 };
        for (seconds, exceeded, expect, limit) in [
            (Some(3), None, [Nothing, Terminate, Nothing, Kill, Nothing], Some(Limit::Time { seconds: 3 })),
            (None, None, [Nothing; 5], None),
            (None, Some(network), [Terminate, Nothing, Kill, Nothing, Nothing], Some(network)),
            (Some(u64::MAX), None, [Nothing; 5], None),
        ] {
            let mut limits = RunLimits { seconds, ..RunLimits::default() };
            // Before the program starts there is no limit of time.
            assert_eq!((limits.next(), limits.check(began + Duration::from_secs(100), None)), (None, Nothing));
            limits.start(began);
            let acted = [1, 3, 6, 8, 60].map(|at| limits.check(began + Duration::from_secs(at), exceeded));
            assert_eq!((acted, limits.reached(), limits.next().is_some()), (expect, limit, false));
        }
    }
}
