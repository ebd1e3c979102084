//! A clock that is ahead, for a reproducibility check: a step that writes the date comes out otherwise.
//!
//! Programs read the clock in the kernel's shared page (the vDSO) without a system call. So PID 1 replaces these functions of each program
//! that has just started with ones that make the system call. The filter passes the call to PID 1, which answers with the other time. A time
//! of that clock to wait for is set back in the caller's memory before the kernel sees it.
//!
//! Times of files and 32-bit programs follow the true clock.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::fixed_random::{is_first, write};
use super::syscall_path::Verdict;
use crate::kernel::compat;
use crate::kernel::notice::Notice;
use crate::kernel::sys;

/// The entry of the auxiliary vector with the address of the shared page.
const AT_SYSINFO_EHDR: u64 = 33;
/// Most bytes of the shared page's ELF image.
const MAX_IMAGE_BYTES: usize = 32 << 10;
const PAGE_BYTES: usize = 4096;
/// The functions, each with the number of its call.
#[cfg(target_arch = "x86_64")]
const FUNCTIONS: [(&[u8], libc::c_long); 3] = [
    (b"__vdso_clock_gettime", libc::SYS_clock_gettime),
    (b"__vdso_gettimeofday", libc::SYS_gettimeofday),
    (b"__vdso_time", libc::SYS_time),
];
/// The functions, each with the number of its call.
#[cfg(target_arch = "aarch64")]
const FUNCTIONS: [(&[u8], libc::c_long); 2] =
    [(b"__kernel_clock_gettime", libc::SYS_clock_gettime), (b"__kernel_gettimeofday", libc::SYS_gettimeofday)];

/// The clock of one sandbox.
pub struct ClockAhead {
    secs: i64,
}

impl ClockAhead {
    /// Returns a clock that is ahead by this many seconds, if it is ahead.
    pub fn new(secs: u32) -> Option<ClockAhead> {
        (secs > 0).then_some(ClockAhead { secs: secs.into() })
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
            call => {
                if is_first(call) {
                    replace_functions(notice, still_waits);
                }
                None
            }
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

/// Replaces the functions of a program that has just started. If that fails, the program sees the true time.
fn replace_functions(notice: &Notice, still_waits: &dyn Fn() -> bool) {
    let Ok(pid) = i32::try_from(notice.pid) else { return };
    let Ok(vector) = fs::read(format!("/proc/{pid}/auxv")) else { return };
    let words: Vec<u64> = vector.chunks_exact(8).filter_map(|bytes| bytes.try_into().ok().map(u64::from_le_bytes)).collect();
    let Some(base) = words.chunks_exact(2).find(|pair| pair[0] == AT_SYSINFO_EHDR).map(|pair| pair[1]) else { return };
    let mut image = vec![0; MAX_IMAGE_BYTES];
    let mut length = 0;
    while length < MAX_IMAGE_BYTES && sys::read_memory(pid, base + length as u64, &mut image[length..length + PAGE_BYTES]).is_ok() {
        length += PAGE_BYTES;
    }
    image.truncate(length);
    let Ok(memory) = OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")) else { return };
    for (name, call) in FUNCTIONS {
        let Some(at) = function(&image, name) else { continue };
        let code = code(call);
        let is_replaced = usize::try_from(at).is_ok_and(|at| image.get(at..at + code.len()) == Some(&code));
        if !is_replaced && still_waits() {
            let _ = memory.write_all_at(&code, base + at);
        }
    }
}

/// Returns a function that makes a system call with its own arguments.
#[cfg(target_arch = "x86_64")]
fn code(call: libc::c_long) -> Vec<u8> {
    // mov eax, CALL; syscall; ret
    [&[0xb8][..], &(call as u32).to_le_bytes(), &[0x0f, 0x05, 0xc3]].concat()
}

/// Returns a function that makes a system call with its own arguments.
#[cfg(target_arch = "aarch64")]
fn code(call: libc::c_long) -> Vec<u8> {
    // mov x8, CALL; svc 0; ret
    [0xd280_0008 | (call as u32) << 5, 0xd400_0001, 0xd65f_03c0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// Finds a function in an ELF image of 64 bits, by its dynamic symbols. The names follow the symbols.
fn function(image: &[u8], name: &[u8]) -> Option<u64> {
    const DYNAMIC: u64 = 2;
    const STRINGS: u64 = 5;
    const SYMBOLS: u64 = 6;
    const SYMBOL_BYTES: usize = 24;
    let number = |at: usize, bytes: usize| {
        let part = image.get(at..at.checked_add(bytes)?)?;
        Some(part.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)))
    };
    let place = |value: u64| usize::try_from(value).ok();
    let (headers, size, count) = (place(number(32, 8)?)?, place(number(54, 2)?)?, place(number(56, 2)?)?);
    let header = (0..count).map(|at| headers + at * size).find(|at| number(*at, 4) == Some(DYNAMIC))?;
    let (start, bytes) = (place(number(header + 8, 8)?)?, place(number(header + 40, 8)?)?);
    let entry = |tag| (0..bytes / 16).map(|at| start + at * 16).find(|at| number(*at, 8) == Some(tag)).and_then(|at| number(at + 8, 8));
    let (symbols, strings) = (place(entry(SYMBOLS)?)?, place(entry(STRINGS)?)?);
    let found = (symbols..strings).step_by(SYMBOL_BYTES).find(|at| {
        let named = number(*at, 4).and_then(place).and_then(|offset| image.get(strings.checked_add(offset)?..));
        named.is_some_and(|named| named.starts_with(name) && named.get(name.len()) == Some(&0))
    })?;
    number(found + 8, 8).filter(|at| *at != 0)
}
