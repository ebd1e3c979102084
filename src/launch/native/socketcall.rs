//! Makes sockets for i386 programs.
//!
//! i386's C library makes sockets by `socketcall`, whose arguments are in memory, where a filter cannot read them. PID 1 reads them once,
//! applies the rules for `socket` and `socketpair`, makes the socket itself, and passes it to the caller. If the kernel made the call
//! instead, another thread could change the arguments after the check. PID 1 is in the same network namespace, and has no capability for
//! networks.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with, socketpair};

use crate::kernel::compat::{MAKES_PAIR, SOCKETCALL};
use crate::kernel::notice::Notice;
use crate::kernel::sys;
use crate::kernel::{compat, seccomp_rules};

/// The bits of a socket's type that are not flags.
const KIND: u32 = 0xf;

/// Returns true if this module answers the call.
pub fn is_judged(notice: &Notice) -> bool {
    cfg!(target_arch = "x86_64") && notice.architecture == compat::ARCHITECTURE && notice.call == SOCKETCALL as i32
}

/// Answers a call of `socketcall`.
pub fn answer(listener: BorrowedFd<'_>, notice: &Notice) -> std::io::Result<()> {
    match serve(listener, notice) {
        Ok(()) => Ok(()),
        Err(errno) => sys::answer(listener, notice.id, errno.raw_os_error()),
    }
}

fn serve(listener: BorrowedFd<'_>, notice: &Notice) -> Result<(), Errno> {
    let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
    let is_pair = notice.args[0] as u32 == MAKES_PAIR;
    let mut words = [[0; 4]; 4];
    let words = &mut words[..if is_pair { 4 } else { 3 }];
    let bytes = words.as_flattened_mut();
    let length = bytes.len();
    if sys::read_memory(pid, notice.args[1], bytes).map_err(|_| Errno::FAULT)? != length {
        return Err(Errno::FAULT);
    }
    if !sys::still_waits(listener, notice.id) {
        return Err(Errno::SRCH);
    }
    let words: Vec<u32> = words.iter().map(|word| u32::from_ne_bytes(*word)).collect();
    let call = if is_pair { libc::SYS_socketpair } else { libc::SYS_socket };
    seccomp_rules::check_socket(call, &words).map_err(Errno::from_raw_os_error)?;
    let (kind, flags) = (words[1] & KIND, SocketFlags::from_bits_retain(words[1] & !KIND));
    if !(SocketFlags::NONBLOCK | SocketFlags::CLOEXEC).contains(flags) {
        return Err(Errno::INVAL);
    }
    let family = AddressFamily::from_raw(words[0] as u16);
    let (kind, protocol) = (SocketType::from_raw(kind), NonZeroU32::new(words[2]).map(Protocol::from_raw));
    let own = flags | SocketFlags::CLOEXEC;
    let flags_there = if flags.contains(SocketFlags::CLOEXEC) { libc::O_CLOEXEC } else { 0 };
    let give = |own: &OwnedFd, flags| sys::give(listener, notice.id, own.as_fd(), flags, flags_there);
    if !is_pair {
        let socket = socket_with(family, kind, own, protocol)?;
        return match give(&socket, sys::SEND) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let number = give(&socket, 0).map_err(failed)?;
                sys::answer_with(listener, notice.id, number.into()).map_err(failed)
            }
            given => given.map(drop).map_err(failed),
        };
    }
    let (one, other) = socketpair(family, kind, own, protocol)?;
    let place = u64::from(words[3]);
    if !sys::still_waits(listener, notice.id) {
        return Err(Errno::SRCH);
    }
    let write = |numbers: [u32; 2]| {
        let bytes = numbers.map(u32::to_ne_bytes);
        let bytes = bytes.as_flattened();
        sys::write_memory(pid, place, bytes).ok().filter(|written| *written == bytes.len()).map(drop).ok_or(Errno::FAULT)
    };
    // First without the descriptors, because the caller keeps them even if the call fails.
    write([u32::MAX; 2])?;
    write([give(&one, 0).map_err(failed)?, give(&other, 0).map_err(failed)?])?;
    sys::answer(listener, notice.id, 0).map_err(failed)
}

fn failed(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
