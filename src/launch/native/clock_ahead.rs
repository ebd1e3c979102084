//! A clock that is ahead, for a reproducibility check: a step that writes the date comes out otherwise.
//!
//! Programs read the clock in the kernel's shared page without a system call. So PID 1 replaces these functions of each program
//! that has just started with ones that make the system call ([`vdso`](super::vdso)). The filter passes the call to PID 1, which answers with the other time. A time
//! of that clock to wait for is set back in the caller's memory before the kernel sees it.
//!
//! Times of files and 32-bit programs follow the true clock.

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::fixed_random::write;
use super::syscall_path::Verdict;
use super::vdso::{Auxiliary, Vdso};
use crate::kernel::compat;
use crate::kernel::notice::Notice;
use crate::kernel::sys;

/// The clock of one sandbox.
pub struct ClockAhead {
    secs: i64,
    vdso: Vdso,
}

impl ClockAhead {
    /// Returns a clock that is ahead by this many seconds, if it is ahead.
    pub fn new(secs: u32) -> Option<ClockAhead> {
        (secs > 0).then(|| ClockAhead { secs: secs.into(), vdso: Vdso::calls() })
    }

    /// Makes a program that has just started ask for the time.
    pub fn start(&self, notice: &Notice, auxiliary: &Auxiliary, still_waits: &dyn Fn() -> bool) {
        self.vdso.replace(notice.pid, auxiliary, 0, still_waits);
    }

    /// Answers a call; `None` if it is another module's.
    pub fn judge(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Option<Result<Verdict, Errno>> {
        if notice.architecture == compat::ARCHITECTURE {
            return None;
        }
        match libc::c_long::from(notice.call) {
            libc::SYS_clock_gettime => Some(self.time(notice, notice.args[1], (clock(notice.args[0]), 1), still_waits)),
            libc::SYS_gettimeofday => Some(self.time_of_day(notice, still_waits)),
            libc::SYS_futex => {
                self.set_back(notice, notice.args[3], still_waits);
                Some(Ok(Verdict::Continue))
            }
            libc::SYS_clock_nanosleep => {
                self.set_back(notice, notice.args[2], still_waits);
                Some(Ok(Verdict::Continue))
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_time => Some(self.seconds(notice, still_waits)),
            _ => None,
        }
    }

    /// Writes seconds and a fraction in a unit of so many nanoseconds.
    fn time(&self, notice: &Notice, address: u64, (clock, unit): (ClockId, i64), still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        let now = clock_gettime(clock);
        let words = [now.tv_sec + self.secs, now.tv_nsec / unit];
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
        self.time(notice, notice.args[0], (ClockId::Realtime, 1000), still_waits)
    }

    #[cfg(target_arch = "x86_64")]
    fn seconds(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        let now = clock_gettime(ClockId::Realtime).tv_sec + self.secs;
        if notice.args[0] != 0 {
            write(notice, notice.args[0], &now.to_le_bytes(), still_waits)?;
        }
        Ok(Verdict::Value(now))
    }

    /// Sets a time back, unless that is done already: callers repeat a call with the same memory.
    fn set_back(&self, notice: &Notice, address: u64, still_waits: &dyn Fn() -> bool) {
        let Ok(pid) = i32::try_from(notice.pid) else { return };
        let mut bytes = [0; 8];
        if address == 0 || !matches!(sys::read_memory(pid, address, &mut bytes), Ok(8)) {
            return;
        }
        let wanted = i64::from_le_bytes(bytes);
        if wanted > clock_gettime(ClockId::Realtime).tv_sec + self.secs / 2 {
            // The caller then waits for too long; its step's own limits end it.
            let _ = write(notice, address, &wanted.saturating_sub(self.secs).to_le_bytes(), still_waits);
        }
    }
}

fn clock(number: u64) -> ClockId {
    match number as u32 {
        5 => ClockId::RealtimeCoarse,
        _ => ClockId::Realtime,
    }
}
