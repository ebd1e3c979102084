//! Resolves the file named in a process's system call, for PID 1, which answers the call.
//!
//! PID 1 is in the sandbox's own root, from which no path leaves the sandbox. A hostile program could still try to confuse it:
//!
//! * by PID reuse, with another process's memory and files: after every open through `/proc/<pid>`, PID 1 must check that the very same
//!   call still waits ([`sys::still_waits`]);
//! * by a path through `/proc/self`, with PID 1's own descriptors: such links are not followed.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::event::PollFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;

use super::socketcall;
use crate::kernel::compat;
use crate::kernel::notice::Notice;
use crate::kernel::sys;

/// The kernel's limit on a path, including its NUL.
const PATH_BYTES: usize = 4096;

/// Bytes read at a time. A read never crosses into a page that may be unmapped.
const PAGE_BYTES: u64 = 4096;

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// PID 1 has performed it: the call succeeds.
    Done,
    /// PID 1 has performed it: the call returns this value.
    Value(i64),
    /// The kernel makes the call as if there were no filter. Only for calls that the program may make with any arguments: the program can
    /// change them in memory after PID 1 has read them.
    Continue,
    /// A child of PID 1 answers it.
    Later,
}

/// Answers system calls that a filter passes to PID 1.
pub trait CallHandler {
    /// Returns the descriptor that is readable while a call waits.
    fn listener(&self) -> BorrowedFd<'_>;

    /// Returns other descriptors to wait for; [`CallHandler::attend`] is called when one is ready.
    fn others(&self) -> Vec<PollFd<'_>> {
        Vec::new()
    }

    /// Attends to the other descriptors.
    fn attend(&self) {}

    /// Performs a call on behalf of its caller.
    fn judge(&self, notice: &Notice) -> Result<Verdict, Errno>;

    /// Answers the waiting call, if it still waits.
    fn answer_one(&self) {
        // The caller may have been killed before, here and below; then no answer is needed.
        let Ok(mut notice) = sys::next_notice(self.listener()) else { return };
        let is_narrow = notice.architecture == compat::ARCHITECTURE;
        if is_narrow {
            compat::narrow(&mut notice);
        }
        if socketcall::is_judged(&notice) {
            let _ = socketcall::answer(self.listener(), &notice);
            return;
        }
        let notice = if is_narrow {
            let Some(native) = compat::native(&notice) else {
                let _ = sys::answer(self.listener(), notice.id, libc::ENOSYS);
                return;
            };
            native
        } else {
            notice
        };
        let _ = match self.judge(&notice) {
            Ok(Verdict::Done) => sys::answer(self.listener(), notice.id, 0),
            Ok(Verdict::Value(value)) => sys::answer_with(self.listener(), notice.id, value),
            Ok(Verdict::Continue) => sys::let_through(self.listener(), notice.id),
            Ok(Verdict::Later) => Ok(()),
            Err(errno) => sys::answer(self.listener(), notice.id, errno.raw_os_error()),
        };
    }
}

/// The file arguments of a call.
pub struct Named {
    /// The descriptor at which the path starts, or the file itself if there is no path.
    pub directory: i32,
    /// The path, if any.
    pub path: Option<CString>,
    /// True if a symlink in the last component is followed.
    pub follow: bool,
}

impl Named {
    /// Names the file of a descriptor.
    pub fn by_descriptor(descriptor: u64) -> Named {
        let directory = descriptor as u32 as i32;
        // AT_FDCWD has no meaning here.
        Named { directory: if directory < 0 { -1 } else { directory }, path: None, follow: true }
    }

    /// Names the file at a path in the caller's memory.
    pub fn by_path(pid: i32, path: u64) -> Result<Named, Errno> {
        Named::at(pid, libc::AT_FDCWD as u32 as u64, path, 0)
    }

    /// Names the file at a path relative to a directory, with the flags of the `*at` calls.
    pub fn at(pid: i32, directory: u64, path: u64, flags: u64) -> Result<Named, Errno> {
        // Descriptors and flags are 32 bits wide; like the kernel, ignore the upper bits.
        let flags = flags as u32 as i32;
        if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
            return Err(Errno::INVAL);
        }
        let path = read_path(pid, path)?;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::NOENT);
        }
        Ok(Named { directory: directory as u32 as i32, path: Some(path), follow: flags & libc::AT_SYMLINK_NOFOLLOW == 0 })
    }

    /// Opens the file as the caller would, without access to its content. `root` is the sandbox's root.
    pub fn open(&self, root: BorrowedFd<'_>, pid: i32) -> Result<OwnedFd, Errno> {
        let path = self.path.as_deref().unwrap_or(c"");
        if path.to_bytes().first() == Some(&b'/') {
            return self.open_at(root, path);
        }
        // Magic links of /proc, which refer to the caller's own files.
        let start = match self.directory {
            libc::AT_FDCWD => format!("/proc/{pid}/cwd"),
            fd if fd >= 0 => format!("/proc/{pid}/fd/{fd}"),
            _ => return Err(Errno::BADF),
        };
        let start = open(start, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| if error == Errno::NOENT { Errno::BADF } else { error })?;
        if path.is_empty() {
            return Ok(start);
        }
        self.open_at(start.as_fd(), path)
    }

    fn open_at(&self, start: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
        let last = if self.follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::PATH | OFlags::CLOEXEC | last;
        openat2(start, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
    }
}

/// Reads a NUL-terminated path, page by page.
fn read_path(pid: i32, mut address: u64) -> Result<CString, Errno> {
    let mut path = Vec::with_capacity(256);
    while path.len() < PATH_BYTES {
        let in_page = (PAGE_BYTES - address % PAGE_BYTES) as usize;
        let mut part = vec![0; in_page.min(PATH_BYTES - path.len())];
        // A host may forbid reading any other process, even a child.
        let refused = |error: std::io::Error| if error.raw_os_error() == Some(libc::EPERM) { Errno::PERM } else { Errno::FAULT };
        let got = sys::read_memory(pid, address, &mut part).map_err(refused)?;
        part.truncate(got);
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            path.extend_from_slice(&part[..end]);
            return CString::new(path).map_err(|_| Errno::INVAL);
        }
        if got == 0 {
            return Err(Errno::FAULT);
        }
        path.extend_from_slice(&part);
        address = address.checked_add(got as u64).ok_or(Errno::FAULT)?;
    }
    Err(Errno::NAMETOOLONG)
}

/// Splits a path into its parent directory and the last component; `None` if that is `.` or `..`.
pub fn split(path: &[u8]) -> Option<(CString, OsString)> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let name = &path[start..end];
    if name == b"." || name == b".." {
        return None;
    }
    let parent = if start == 0 { b"." } else { &path[..start] };
    Some((CString::new(parent).ok()?, OsString::from_vec(name.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_as_the_kernel_does() {
        for (path, expect) in [
            ("node_modules", Some((".", "node_modules"))),
            ("node_modules//", Some((".", "node_modules"))),
            ("web/target/", Some(("web/", "target"))),
            ("/a/b", Some(("/a/", "b"))),
            ("/a", Some(("/", "a"))),
            ("..", None),
            ("a/.", None),
            ("/", None),
            ("", None),
        ] {
            let found = split(path.as_bytes());
            let found = found.as_ref().map(|(parent, name)| (parent.to_str().expect("of the table"), name.to_str().expect("of the table")));
            assert_eq!(found, expect, "{path}");
        }
    }
}
