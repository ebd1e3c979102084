//! The system calls of a build step that PID 1 answers: changes of owners without a range of ids, random numbers with a seed, the
//! order of directories and the clock in a reproducibility check, and sockets of i386 programs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::chown_emulation;
use super::clock_ahead::ClockAhead;
use super::fixed_random::{FixedRandom, is_first};
use super::owners::Owners;
use super::reversed_dirs::ReversedDirs;
use super::syscall_path::{CallHandler, Verdict};
use crate::failure::Failure;
use crate::kernel::notice::Notice;
use crate::kernel::seccomp_rules::Addition;
use crate::kernel::sys;
use crate::spec::{Conditions, Seed};

/// Returns the rules that a step's filter has in addition to those for every sandbox.
pub fn additions(seed: Option<Seed>, conditions: &Conditions, owners: Owners) -> Vec<Addition> {
    let all = [
        (owners == Owners::Recorded).then_some(Addition::OneId),
        seed.map(|_| Addition::Seeded),
        conditions.reversed_dirs.then_some(Addition::ReversedDirs),
        (conditions.clock_ahead > 0).then_some(Addition::ClockAhead),
    ];
    all.into_iter().flatten().collect()
}

/// The modules that answer the calls of a build step.
pub struct Answers {
    random: Option<FixedRandom>,
    dirs: Option<ReversedDirs>,
    clock: Option<ClockAhead>,
    recorder: Option<chown_emulation::Recorder>,
}

impl Answers {
    /// Opens the files that the answers need; call it inside the sandbox's root, before the program starts.
    pub fn new(seed: Option<Seed>, conditions: &Conditions, owners: Owners) -> Result<Answers, Failure> {
        let recorder = match owners {
            Owners::Real => None,
            Owners::Recorded => Some(chown_emulation::Recorder::new()?),
        };
        let processors = conditions.processors.unwrap_or(1);
        Ok(Answers {
            random: seed.map(|seed| FixedRandom::new(seed, processors)).transpose()?,
            dirs: conditions.reversed_dirs.then(ReversedDirs::default),
            clock: ClockAhead::new(conditions.clock_ahead),
            recorder,
        })
    }
}

/// Answers the calls of a build step.
pub struct StepCalls {
    listener: OwnedFd,
    answers: Answers,
}

impl StepCalls {
    /// Starts to answer.
    pub fn new(listener: OwnedFd, answers: Answers) -> StepCalls {
        StepCalls { listener, answers }
    }
}

impl CallHandler for StepCalls {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn fills(&self) -> Option<BorrowedFd<'_>> {
        self.answers.random.as_ref().map(FixedRandom::pipe)
    }

    fn fill(&self) {
        if let Some(random) = &self.answers.random {
            random.fill();
        }
    }

    fn judge(&self, notice: &Notice) -> Result<Verdict, Errno> {
        let still_waits = || sys::still_waits(self.listener.as_fd(), notice.id);
        if let Some(answer) = self.answers.dirs.as_ref().and_then(|dirs| dirs.judge(notice, &still_waits)) {
            return answer;
        }
        if let Some(answer) = self.answers.clock.as_ref().and_then(|clock| clock.judge(notice, &still_waits)) {
            return answer;
        }
        if let Some(answer) = self.answers.random.as_ref().and_then(|random| random.judge(notice, &still_waits)) {
            return answer;
        }
        match &self.answers.recorder {
            // The clock only looks at a program that has just started.
            Some(_) if is_first(notice.call.into()) => Ok(Verdict::Continue),
            Some(recorder) => recorder.serve(notice, &still_waits).map(|()| Verdict::Done),
            None => Ok(Verdict::Continue),
        }
    }
}
