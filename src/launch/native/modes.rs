//! Set-id bits of directories: what a run may set although set-id files are refused.
//!
//! In a directory whose set-group-id bit is set, new files get its group; directories made there inherit the bit, and
//! programs set it again with the rest of a mode (`cp -a`, `tar xp`, `chmod -R g+w`). A filter sees a mode and not the file, so
//! it hands such calls to PID 1, which opens the file, and changes the mode of this very file if it is a directory. It has no
//! more power over files than the program.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, open};
use rustix::io::Errno;

use super::named::{Judge, Named};
use super::sys::{self, Notice};
use crate::launch::host::failure::{During, Failure};

/// `fchmodat2`, which libc does not have for every C library.
const FCHMODAT2: libc::c_long = 452;

/// Answers the calls of one sandbox.
pub struct Modes {
    listener: OwnedFd,
    root: OwnedFd,
}

impl Modes {
    /// Listens; to be made inside the sandbox's root.
    pub fn new(listener: OwnedFd) -> Result<Modes, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open("/", flags, Mode::empty()).during("looking at the root")?;
        Ok(Modes { listener, root })
    }

    fn serve(&self, notice: &Notice) -> Result<(), Errno> {
        let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
        let (named, mode) = read(notice, pid)?;
        let target = named.open(self.root.as_fd(), pid)?;
        if !sys::still_waits(self.listener.as_fd(), notice.id) {
            return Err(Errno::SRCH);
        }
        // A descriptor of a directory never comes to be one of a file.
        if FileType::from_raw_mode(fstat(&target)?.st_mode) != FileType::Directory {
            return Err(Errno::PERM);
        }
        // The descriptor gives no access, so it is named through /proc.
        chmodat(CWD, format!("/proc/self/fd/{}", target.as_raw_fd()), mode, AtFlags::empty())
    }
}

impl Judge for Modes {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn judge(&self, notice: &Notice) -> Result<(), Errno> {
        self.serve(notice)
    }
}

/// Reads a call's arguments: the file, and its new mode.
fn read(notice: &Notice, pid: i32) -> Result<(Named, Mode), Errno> {
    let args = notice.args;
    let mode = |index: usize| Mode::from_raw_mode(args[index] as u32 & 0o7777);
    let (named, mode) = match libc::c_long::from(notice.call) {
        libc::SYS_fchmod => (Named::by_descriptor(args[0]), mode(1)),
        libc::SYS_fchmodat => (Named::at(pid, args[0], args[1], 0)?, mode(2)),
        FCHMODAT2 => (Named::at(pid, args[0], args[1], args[3])?, mode(2)),
        // chmod, which aarch64 does not have.
        _ => (Named::by_path(pid, args[0])?, mode(1)),
    };
    let descriptor = named.path.as_deref().and_then(own_descriptor);
    Ok((descriptor.map_or(named, Named::by_descriptor), mode))
}

/// The descriptor that a path names through /proc: so C libraries change the mode of a file that is no symlink.
fn own_descriptor(path: &CStr) -> Option<u64> {
    let path = path.to_str().ok()?;
    let number = path.strip_prefix("/proc/self/fd/").or_else(|| path.strip_prefix("/dev/fd/"))?;
    number.parse::<u32>().ok().map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_through_proc_names_a_descriptor_of_the_callers() {
        for (path, expect) in [(c"/proc/self/fd/7", Some(7)), (c"/dev/fd/3", Some(3)), (c"/proc/self/fd/x", None), (c"/proc/1/fd/3", None)]
        {
            assert_eq!(own_descriptor(path), expect, "{path:?}");
        }
    }
}
