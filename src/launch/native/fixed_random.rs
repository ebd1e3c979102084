//! Random numbers that follow from a seed, and one visible processor: for build steps whose result must not depend on chance.
//!
//! The filter passes some calls to PID 1, which answers them from streams of the seed:
//!
//! * `getrandom`: each thread has a stream of its own, by its number, so the order of threads does not matter. From Linux 6.11 on, the C
//!   library has a generator in the kernel's shared page. It takes a new key whenever the kernel's own generator does, so once a minute or
//!   more often. The filter refuses the memory for its state, and the library makes the call instead;
//! * the 16 bytes that the kernel gives each new program (`AT_RANDOM`): hash seeds of Go, the C library's stack guards. The kernel writes
//!   them at `execve`, and no call asks for them. So PID 1 replaces them at the first call that a C library or Go's runtime makes before it
//!   reads them: `brk(0)`, `arch_prctl` or `sched_getaffinity`;
//! * `sched_getaffinity`: one processor, number 0, unless a reproducibility check shows more.
//!
//! `/dev/random` and `/dev/urandom` are a pipe that PID 1 keeps filled from one more stream.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use silo_store::digest::Hasher;

use super::dev::RANDOM_PIPE;
use super::syscall_path::Verdict;
use super::vdso::Auxiliary;
use crate::failure::{Failure, StepContext};
use crate::kernel::compat;
use crate::kernel::notice::Notice;
use crate::kernel::sys;
use crate::spec::Seed;

/// Most bytes of one answer. The kernel promises 256 in one call; callers ask again for more.
const MAX_BYTES: usize = 64 << 10;
/// Bytes of a block of a stream.
const BLOCK_BYTES: usize = 32;
/// Bytes of one write to the pipe: a page, which it takes as a whole.
const PAGE_BYTES: usize = 4096;
/// The entry of the auxiliary vector with the address of the random bytes.
const AT_RANDOM: u64 = 25;
const AT_RANDOM_BYTES: usize = 16;

/// The streams of one sandbox.
pub struct FixedRandom {
    seed: Seed,
    /// Number of visible processors.
    processors: u32,
    /// The position in each thread's stream.
    threads: RefCell<BTreeMap<u32, u64>>,
    pipe: OwnedFd,
    /// The position in the pipe's stream.
    written: RefCell<u64>,
}

impl FixedRandom {
    /// Opens the pipe; call it inside the sandbox's root.
    pub fn new(seed: Seed, processors: u32) -> Result<FixedRandom, Failure> {
        // A reader never sees the end, because this end is open for both.
        let pipe = open(RANDOM_PIPE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).during("opening /dev/urandom")?;
        let made = FixedRandom { seed, processors, threads: RefCell::default(), pipe, written: RefCell::default() };
        made.fill();
        Ok(made)
    }

    /// Returns the descriptor that is writable when [`FixedRandom::fill`] has to be called.
    pub fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Fills the pipe.
    pub fn fill(&self) {
        let mut written = self.written.borrow_mut();
        while let Ok(length) = rustix::io::write(&self.pipe, &self.bytes("device", 0, *written, PAGE_BYTES)) {
            *written += length as u64;
        }
    }

    /// Answers a call; `None` if it is another module's.
    pub fn judge(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Option<Result<Verdict, Errno>> {
        match libc::c_long::from(notice.call) {
            libc::SYS_getrandom => Some(self.getrandom(notice, still_waits)),
            libc::SYS_sched_getaffinity => Some(affinity(notice, self.processors, still_waits)),
            _ => None,
        }
    }

    fn getrandom(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        let wanted = usize::try_from(notice.args[1]).unwrap_or(usize::MAX).min(MAX_BYTES);
        let mut threads = self.threads.borrow_mut();
        let position = threads.entry(notice.pid).or_default();
        let bytes = self.bytes("thread", notice.pid, *position, wanted);
        let length = write(notice, notice.args[0], &bytes, still_waits)?;
        *position += wanted as u64;
        Ok(Verdict::Value(length))
    }

    /// Replaces the random bytes of a program that has just started. A program without them keeps running.
    pub fn start(&self, notice: &Notice, auxiliary: &Auxiliary, still_waits: &dyn Fn() -> bool) {
        let Some(address) = auxiliary.entry(AT_RANDOM) else { return };
        let bytes = self.bytes("program", notice.pid, 0, AT_RANDOM_BYTES);
        let _ = write(notice, address, &bytes, still_waits);
    }

    /// Returns bytes of a stream, from a position on.
    fn bytes(&self, stream: &str, number: u32, position: u64, wanted: usize) -> Vec<u8> {
        let skipped = (position % BLOCK_BYTES as u64) as usize;
        let mut bytes = Vec::with_capacity(skipped + wanted + BLOCK_BYTES);
        let mut block = position / BLOCK_BYTES as u64;
        while bytes.len() < skipped + wanted {
            let mut hasher = Hasher::new();
            hasher.update(&self.seed.0);
            hasher.update(format!("{stream} {number} {block}").as_bytes());
            bytes.extend_from_slice(hasher.finish().as_bytes());
            block += 1;
        }
        bytes[skipped..skipped + wanted].to_vec()
    }
}

/// True for a call that programs make before they read their random bytes.
pub fn is_first(call: libc::c_long) -> bool {
    is_only_first(call) || call == libc::SYS_sched_getaffinity
}

/// True for such a call that the kernel makes in any case.
pub fn is_only_first(call: libc::c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    if call == libc::SYS_arch_prctl {
        return true;
    }
    call == libc::SYS_brk
}

/// Answers with a set that has only the first processors.
fn affinity(notice: &Notice, processors: u32, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
    let unit = word_bytes(notice);
    if notice.args[1] < unit as u64 || !notice.args[1].is_multiple_of(unit as u64) {
        return Err(Errno::INVAL);
    }
    let set = u64::MAX >> (u64::BITS - processors.clamp(1, u64::BITS));
    let length = write(notice, notice.args[2], &set.to_le_bytes()[..unit], still_waits)?;
    Ok(Verdict::Value(length))
}

/// Writes to the memory of a waiting caller; returns the length.
pub fn write(notice: &Notice, address: u64, bytes: &[u8], still_waits: &dyn Fn() -> bool) -> Result<i64, Errno> {
    let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
    if !still_waits() {
        return Err(Errno::SRCH);
    }
    if bytes.is_empty() {
        return Ok(0);
    }
    let written = sys::write_memory(pid, address, bytes).map_err(|_| Errno::FAULT)?;
    i64::try_from(written).map_err(|_| Errno::FAULT)
}

/// Returns the size of a word of the calling program.
pub fn word_bytes(notice: &Notice) -> usize {
    if notice.architecture == compat::ARCHITECTURE { 4 } else { 8 }
}
