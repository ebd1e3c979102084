//! The system calls of a build step that PID 1 answers: changes of owners without a range of ids, random numbers with a seed, the
//! clock, the order of directories, and sockets of i386 programs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::chown_emulation;
use super::clock_ahead::ClockAhead;
use super::fixed_clock::FixedClock;
use super::fixed_random::{FixedRandom, is_first, is_only_first, word_bytes};
use super::owners::Owners;
use super::sorted_dirs::{Order, SortedDirs};
use super::syscall_path::{CallHandler, Verdict};
use super::vdso::Auxiliary;
use crate::failure::Failure;
use crate::kernel::compat;
use crate::kernel::notice::Notice;
use crate::kernel::seccomp_rules::Addition;
use crate::kernel::sys;
use crate::spec::Spec;

/// Returns the rules that a step's filter has in addition to those for every sandbox.
pub fn additions(spec: &Spec, owners: Owners) -> Vec<Addition> {
    let all = [
        (owners == Owners::Recorded).then_some(Addition::OneId),
        spec.seed.map(|_| Addition::Seeded),
        order(spec).map(|_| Addition::SortedDirs),
        match (spec.fixed_time, spec.conditions.clock_ahead) {
            (Some(_), _) => Some(Addition::FixedClock),
            (None, 0) => None,
            (None, _) => Some(Addition::ClockAhead),
        },
    ];
    all.into_iter().flatten().collect()
}

/// Returns the order of directories, if it is not that of the file system.
fn order(spec: &Spec) -> Option<Order> {
    match (spec.conditions.reversed_dirs, spec.seed) {
        (true, _) => Some(Order::Reversed),
        (false, Some(_)) => Some(Order::Sorted),
        (false, None) => None,
    }
}

/// The modules that answer the calls of a build step.
pub struct Answers {
    random: Option<FixedRandom>,
    dirs: Option<SortedDirs>,
    ahead: Option<ClockAhead>,
    fixed: Option<FixedClock>,
    recorder: Option<chown_emulation::Recorder>,
}

impl Answers {
    /// Opens the files that the answers need; call it inside the sandbox's root, before the program starts.
    pub fn new(spec: &Spec, owners: Owners) -> Result<Answers, Failure> {
        let conditions = &spec.conditions;
        let recorder = match owners {
            Owners::Real => None,
            Owners::Recorded => Some(chown_emulation::Recorder::new()?),
        };
        let processors = conditions.processors.unwrap_or(1);
        Ok(Answers {
            random: spec.seed.map(|seed| FixedRandom::new(seed, processors)).transpose()?,
            dirs: order(spec).map(SortedDirs::new),
            ahead: if spec.fixed_time.is_none() { ClockAhead::new(conditions.clock_ahead) } else { None },
            fixed: spec.fixed_time.map(|time| FixedClock::new(time.saturating_add(conditions.clock_ahead.into()))).transpose()?,
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

    /// Prepares a program that has just started. If that fails, the program has the kernel's own values.
    fn start(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) {
        let Answers { random, ahead, fixed, .. } = &self.answers;
        let Some(auxiliary) = Auxiliary::read(notice.pid, word_bytes(notice)) else { return };
        if let Some(random) = random {
            random.start(notice, &auxiliary, still_waits);
        }
        if notice.architecture == compat::ARCHITECTURE {
            return;
        }
        if let Some(ahead) = ahead {
            ahead.start(notice, &auxiliary, still_waits);
        }
        if let Some(fixed) = fixed {
            fixed.start(notice, &auxiliary, still_waits);
        }
    }
}

impl CallHandler for StepCalls {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn others(&self) -> Vec<PollFd<'_>> {
        let Answers { random, fixed, .. } = &self.answers;
        let pipe = random.as_ref().map(|random| PollFd::from_borrowed_fd(random.pipe(), PollFlags::OUT));
        let timer = fixed.as_ref().map(|fixed| PollFd::from_borrowed_fd(fixed.timer(), PollFlags::IN));
        pipe.into_iter().chain(timer).collect()
    }

    fn attend(&self) {
        if let Some(random) = &self.answers.random {
            random.fill();
        }
        if let Some(fixed) = &self.answers.fixed {
            fixed.tick();
        }
    }

    fn judge(&self, notice: &Notice) -> Result<Verdict, Errno> {
        let still_waits = || sys::still_waits(self.listener.as_fd(), notice.id);
        if is_first(notice.call.into()) {
            self.start(notice, &still_waits);
        }
        if let Some(answer) = self.answers.dirs.as_ref().and_then(|dirs| dirs.judge(notice, &still_waits)) {
            return answer;
        }
        if let Some(answer) = self.answers.ahead.as_ref().and_then(|clock| clock.judge(notice, &still_waits)) {
            return answer;
        }
        if let Some(answer) = self.answers.fixed.as_ref().and_then(|clock| clock.judge(notice, &still_waits)) {
            return answer;
        }
        if let Some(answer) = self.answers.random.as_ref().and_then(|random| random.judge(notice, &still_waits)) {
            return answer;
        }
        match &self.answers.recorder {
            Some(_) if is_only_first(notice.call.into()) => Ok(Verdict::Continue),
            Some(recorder) => recorder.serve(notice, &still_waits).map(|()| Verdict::Done),
            None => Ok(Verdict::Continue),
        }
    }
}
