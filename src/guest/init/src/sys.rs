//! Socket options that rustix lacks, behind safe functions; the only unsafe code of the package.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_void, sock_filter, sock_fprog, socklen_t};

fn set<T>(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let length = socklen_t::try_from(size_of_val(value)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the value is given with its own size and outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(value).cast::<c_void>(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the mark of all packets that a socket sends.
pub fn set_mark(socket: BorrowedFd<'_>, mark: u32) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark)
}

/// Lets the user of a raw socket write the IP headers.
pub fn write_headers(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: c_int = 1;
    set(socket, libc::IPPROTO_IP, libc::IP_HDRINCL, &on)
}

/// Attaches a classic BPF filter to a socket.
pub fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<sock_filter> = program.iter().map(|one| sock_filter { code: one.0, jt: one.1, jf: one.2, k: one.3 }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel copies the program; it need not outlive the call.
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &sock_fprog { len, filter: filter.as_mut_ptr() })
}

/// Detaches a socket's filter.
pub fn detach_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    let ignored: c_int = 0;
    set(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &ignored)
}

/// A classic BPF instruction: opcode, jump if true, jump if false, operand.
#[derive(Clone, Copy)]
pub struct Instruction(pub u16, pub u8, pub u8, pub u32);

/// The offset at which a filter reads a packet's mark.
pub const MARK: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_MARK) as u32;
