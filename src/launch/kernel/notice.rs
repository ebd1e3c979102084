//! System calls that wait for PID 1's answer, and the answers, as the kernel lays them out.

use std::ffi::c_int;

/// `fchmodat2`; the libc crate does not define it for every C library.
pub const FCHMODAT2: libc::c_long = 452;
/// `chmod`; aarch64 does not have it, and no call has this number there.
pub const CHMOD: libc::c_long = if cfg!(target_arch = "x86_64") { 90 } else { -1 };
/// `rename`; aarch64 does not have it, and no call has this number there.
pub const RENAME: libc::c_long = if cfg!(target_arch = "x86_64") { 82 } else { -1 };

/// A system call that waits for an answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Notice {
    /// The id of this wait.
    pub id: u64,
    /// The calling thread, in this process's pid namespace.
    pub pid: u32,
    flags: u32,
    /// The system call's number.
    pub call: i32,
    /// The audit number of its calling convention.
    pub architecture: u32,
    /// The address of the instruction after the call.
    pub instruction_pointer: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// The answer to a call.
#[repr(C)]
pub(super) struct Verdict {
    /// The id of the wait.
    pub id: u64,
    /// The result, if there is no error.
    pub value: i64,
    /// The negated error number, or 0.
    pub error: i32,
    /// Flags.
    pub flags: u32,
}

/// A descriptor for the caller.
#[repr(C)]
pub(super) struct Addition {
    /// The id of the wait.
    pub id: u64,
    /// Flags.
    pub flags: u32,
    /// The descriptor in this process.
    pub own: c_int,
    /// Its number there, if a flag asks for one.
    pub there: c_int,
    /// Its flags there.
    pub flags_there: c_int,
}
