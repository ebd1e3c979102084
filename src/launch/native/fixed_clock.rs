//! A clock that stands still, for build steps whose result must not depend on the time.
//!
//! All clocks with a date (`CLOCK_REALTIME`, its coarse variant, `CLOCK_TAI`, `gettimeofday`, `time`) show a time of the spec. Monotonic
//! clocks, and the times that the kernel gives files, are true. Programs get functions that return the constant without a system call
//! ([`vdso`](super::vdso)), and PID 1 answers the system calls. 32-bit programs see the true time.
//!
//! A time to wait for is of the shown clock. PID 1 translates it to the true clock in the caller's memory before the kernel reads it.
//!
//! **A step must not wait forever** for a time that never comes. So the clock starts to run in a step that waits much: each wait after
//! the first [`FREE_WAITS`] sets it one second ahead. A wait is a sleep of [`LEAST_SLEEP`] or more, [`READINGS`] of the clock (in a loop
//! without sleeps), or a wait for the same time once more after that time has passed. After [`PATIENCE_SECS`] the clock runs in any case.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create, timerfd_settime,
};

use super::fixed_random::write;
use super::syscall_path::Verdict;
use super::vdso::{Auxiliary, Vdso};
use crate::failure::{Failure, StepContext};
use crate::kernel::compat;
use crate::kernel::notice::Notice;
use crate::kernel::sys;

/// Waits of a step during which the clock stands still. Scripts that wait for a file or a process try less often.
const FREE_WAITS: u64 = 100;
/// Shorter sleeps are no waits: Go's runtime and spin locks sleep all the time.
const LEAST_SLEEP: Duration = Duration::from_millis(50);
/// Readings that count as a wait. A program reads the clock a million times without a system call, in a few hundredths of a second.
const READINGS: u64 = 1 << 20;
/// The same number by system calls is a long time, so each of them counts as many.
const READINGS_OF_CALL: u64 = 1 << 10;
/// True seconds after which the clock runs. Steps in an emulated machine take minutes.
const PATIENCE_SECS: i64 = 3600;
/// Most waits that are remembered, one for each thread.
const MAX_DEADLINES: usize = 1024;
/// Operations of `futex` with a time: `FUTEX_WAIT` has a span, the others a moment.
const FUTEX_WAIT: u64 = 0;
const FUTEX_OPERATION: u64 = 0x7f;
const NANOS: i128 = 1_000_000_000;

/// A wait of a thread for a moment.
#[derive(Clone, Copy)]
struct Deadline {
    address: u64,
    /// The moment of the shown clock, in nanoseconds.
    shown: i128,
    /// The same of the true clock, as the caller's memory has it.
    real: i128,
}

/// The clock of one sandbox.
pub struct FixedClock {
    /// The seconds that programs see.
    shown: Cell<i64>,
    start: i64,
    began: Timespec,
    waits: Cell<u64>,
    readings: Cell<u64>,
    deadlines: RefCell<BTreeMap<u32, Deadline>>,
    vdso: Vdso,
    timer: OwnedFd,
}

impl FixedClock {
    /// Returns a clock that shows this time.
    pub fn new(start: i64) -> Result<FixedClock, Failure> {
        let step = "setting the step's clock";
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).during(step)?;
        let after = |secs| Timespec { tv_sec: secs, tv_nsec: 0 };
        let times = Itimerspec { it_interval: after(1), it_value: after(PATIENCE_SECS) };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times).during(step)?;
        Ok(FixedClock {
            shown: Cell::new(start),
            start,
            began: clock_gettime(ClockId::Monotonic),
            waits: Cell::new(0),
            readings: Cell::new(0),
            deadlines: RefCell::default(),
            vdso: Vdso::constant(),
            timer,
        })
    }

    /// Returns the descriptor that is readable when [`FixedClock::tick`] has to be called.
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Lets the clock run, in a step that takes very long.
    pub fn tick(&self) {
        // Only the descriptor's state matters.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        self.show();
    }

    /// Gives a program that has just started the constant.
    pub fn start(&self, notice: &Notice, auxiliary: &Auxiliary, still_waits: &dyn Fn() -> bool) {
        self.vdso.replace(notice.pid, auxiliary, self.shown.get(), still_waits);
    }

    /// Answers a call; `None` if it is another module's.
    pub fn judge(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Option<Result<Verdict, Errno>> {
        if notice.architecture == compat::ARCHITECTURE {
            return None;
        }
        let args = &notice.args;
        let moment = match libc::c_long::from(notice.call) {
            libc::SYS_clock_gettime => return Some(self.time(notice, args[1], still_waits)),
            libc::SYS_gettimeofday => return Some(self.time_of_day(notice, still_waits)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_time => return Some(self.seconds(notice, still_waits)),
            libc::SYS_clock_nanosleep if is_sleep(args) => {
                self.slept(notice, args[2], 1);
                None
            }
            libc::SYS_pselect6 => {
                self.slept(notice, args[4], 1);
                None
            }
            libc::SYS_ppoll => {
                self.slept(notice, args[2], 1);
                None
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select => {
                self.slept(notice, args[4], 1000);
                None
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => {
                self.count(Duration::from_millis(u64::from(args[2] as u32)));
                None
            }
            libc::SYS_clock_nanosleep => Some(args[2]),
            libc::SYS_futex => (args[1] & FUTEX_OPERATION != FUTEX_WAIT).then_some(args[3]),
            libc::SYS_mq_timedsend | libc::SYS_mq_timedreceive => Some(args[4]),
            libc::SYS_timerfd_settime => has_date(notice).then(|| args[2].saturating_add(16)),
            _ => return None,
        };
        if let Some(address) = moment.filter(|address| *address != 0) {
            self.translate(notice, address, still_waits);
        }
        Some(Ok(Verdict::Continue))
    }

    fn time(&self, notice: &Notice, address: u64, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        self.read(notice);
        let words = [self.shown.get(), 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        write(notice, address, &bytes, still_waits).map(|_| Verdict::Done)
    }

    fn time_of_day(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        // The time zone of the kernel is UTC.
        if notice.args[1] != 0 {
            write(notice, notice.args[1], &[0; 8], still_waits)?;
        }
        if notice.args[0] == 0 {
            return Ok(Verdict::Done);
        }
        self.time(notice, notice.args[0], still_waits)
    }

    #[cfg(target_arch = "x86_64")]
    fn seconds(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        self.read(notice);
        let now = self.shown.get();
        if notice.args[0] != 0 {
            write(notice, notice.args[0], &now.to_le_bytes(), still_waits)?;
        }
        Ok(Verdict::Value(now))
    }

    /// Counts a reading that is a system call: a sample of readings of the constant, or one of a program that does not use the shared page.
    fn read(&self, notice: &Notice) {
        let count = if self.vdso.is_sample(notice.instruction_pointer) { READINGS } else { READINGS_OF_CALL };
        let readings = self.readings.get() + count;
        self.readings.set(readings % READINGS);
        if readings >= READINGS {
            self.wait();
        }
    }

    /// Counts a sleep whose length is in the caller's memory, in seconds and units of so many nanoseconds.
    fn slept(&self, notice: &Notice, address: u64, unit: u64) {
        if let Some((secs, fraction)) = read_words(notice, address)
            && let (Ok(secs), Ok(fraction)) = (u64::try_from(secs), u64::try_from(fraction))
        {
            self.count(Duration::from_secs(secs).saturating_add(Duration::from_nanos(fraction.saturating_mul(unit))));
        }
    }

    fn count(&self, length: Duration) {
        if length >= LEAST_SLEEP {
            self.wait();
        }
    }

    fn wait(&self) {
        self.waits.set(self.waits.get().saturating_add(1));
        self.show();
    }

    /// Computes the time to show, and shows it in all programs if it has changed.
    fn show(&self) {
        let passed = clock_gettime(ClockId::Monotonic).tv_sec.saturating_sub(self.began.tv_sec);
        let waits = i64::try_from(self.waits.get().saturating_sub(FREE_WAITS)).unwrap_or(i64::MAX);
        let shown = self.start.saturating_add(waits).saturating_add((passed - PATIENCE_SECS).max(0));
        if self.shown.replace(shown) != shown {
            self.vdso.change(shown);
        }
    }

    /// Writes the true moment of a wait to the caller's memory. Callers repeat a wait with the same memory, or write the same time again.
    fn translate(&self, notice: &Notice, address: u64, still_waits: &dyn Fn() -> bool) {
        let Some((secs, nanos)) = read_words(notice, address) else { return };
        if !(0..NANOS).contains(&nanos.into()) {
            return;
        }
        let there = i128::from(secs) * NANOS + i128::from(nanos);
        let now = clock_gettime(ClockId::Realtime);
        let now = i128::from(now.tv_sec) * NANOS + i128::from(now.tv_nsec);
        let mut deadlines = self.deadlines.borrow_mut();
        let known =
            deadlines.get(&notice.pid).filter(|known| known.address == address && [known.shown, known.real].contains(&there)).copied();
        let mut real = known.map(|known| known.real);
        if real.is_some_and(|real| real <= now) {
            // The caller still waits for a time that has passed.
            self.wait();
            real = None;
        }
        let shown = known.map_or(there, |known| known.shown);
        let left = shown - i128::from(self.shown.get()) * NANOS;
        // In the past of both clocks: the caller sees its own time again.
        let real = real.unwrap_or(if left <= 0 && shown <= now { shown } else { now + left });
        if deadlines.len() >= MAX_DEADLINES {
            deadlines.pop_first();
        }
        deadlines.insert(notice.pid, Deadline { address, shown, real });
        if real != there {
            let words = [real.div_euclid(NANOS), real.rem_euclid(NANOS)].map(|word| i64::try_from(word).unwrap_or(i64::MAX));
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            // A time in read-only memory is a true one: the wait ends too early, or the step's own limits end it.
            let _ = write(notice, address, &bytes, still_waits);
        }
    }
}

/// True unless the arguments of `clock_nanosleep` are a moment of a clock with a date.
fn is_sleep(args: &[u64; 6]) -> bool {
    let has_date = matches!(args[0] as u32, 0 | 11);
    !(has_date && args[1] & libc::TIMER_ABSTIME as u64 != 0)
}

/// True for a timer of a clock with a date.
fn has_date(notice: &Notice) -> bool {
    let facts = fs::read_to_string(format!("/proc/{}/fdinfo/{}", notice.pid, notice.args[0] as u32)).unwrap_or_default();
    facts.lines().any(|line| line == "clockid: 0" || line == "clockid: 8")
}

/// Reads two words of the caller's memory.
fn read_words(notice: &Notice, address: u64) -> Option<(i64, i64)> {
    let mut bytes = [0; 16];
    let read = sys::read_memory(i32::try_from(notice.pid).ok()?, address, &mut bytes);
    let (one, other) = bytes.split_at(8);
    let word = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_le_bytes);
    matches!(read, Ok(16)).then(|| Some((word(one)?, word(other)?)))?
}
