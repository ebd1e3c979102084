//! Set-id bits of directories, which a run may set although set-id files are refused.
//!
//! In a directory with the set-group-id bit, new files get its group, and new directories inherit the bit. Programs set it again with the
//! rest of a mode (`cp -a`, `tar xp`, `chmod -R g+w`). A filter sees the mode but not the file. So it passes such calls to PID 1, which
//! opens the file and changes the mode of exactly this file if it is a directory. PID 1 has no more access to files than the program.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, fstat, open};
use rustix::io::Errno;

use super::excluded_dirs::{self, ExcludedDirs};
use super::reviewed_renames::ReviewedRenames;
use super::syscall_path::{CallHandler, Named, Verdict};
use crate::failure::{Failure, StepContext};
use crate::kernel::notice::{self, Notice};
use crate::kernel::sys;

/// Answers the calls of one sandbox.
pub struct Modes {
    listener: OwnedFd,
    root: OwnedFd,
    removable: Option<ExcludedDirs>,
    renames: Option<ReviewedRenames>,
}

impl Modes {
    /// Starts to listen; create it inside the sandbox's root. `removable` answers the calls on excluded directories, and `renames`
    /// those on reviewed ones.
    pub fn new(listener: OwnedFd, removable: Option<ExcludedDirs>, renames: Option<ReviewedRenames>) -> Result<Modes, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open("/", flags, Mode::empty()).during("opening the root")?;
        Ok(Modes { listener, root, removable, renames })
    }

    fn serve(&self, notice: &Notice) -> Result<(), Errno> {
        let pid = i32::try_from(notice.pid).map_err(|_| Errno::SRCH)?;
        let (named, mode) = read(notice, pid)?;
        let target = named.open(self.root.as_fd(), pid)?;
        if !sys::still_waits(self.listener.as_fd(), notice.id) {
            return Err(Errno::SRCH);
        }
        // An open descriptor of a directory cannot turn into one of a file.
        if FileType::from_raw_mode(fstat(&target)?.st_mode) != FileType::Directory {
            return Err(Errno::PERM);
        }
        // The `O_PATH` descriptor cannot be changed directly, so the call uses its path in /proc.
        chmodat(CWD, format!("/proc/self/fd/{}", target.as_raw_fd()), mode, AtFlags::empty())
    }
}

impl CallHandler for Modes {
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    fn judge(&self, notice: &Notice) -> Result<Verdict, Errno> {
        if !excluded_dirs::is_judged(notice.call) {
            return self.serve(notice).map(|()| Verdict::Done);
        }
        let (root, listener) = (self.root.as_fd(), self.listener.as_fd());
        let own = self.removable.as_ref().map(|own| own.judge(notice, root, &|| sys::still_waits(listener, notice.id)));
        match (own.unwrap_or(Ok(Verdict::Continue)), &self.renames) {
            (Ok(Verdict::Continue), Some(renames)) => renames.judge(notice, root, listener),
            (verdict, _) => verdict,
        }
    }
}

/// Reads a call's arguments: the file, and its new mode.
fn read(notice: &Notice, pid: i32) -> Result<(Named, Mode), Errno> {
    let args = notice.args;
    let mode = |index: usize| Mode::from_raw_mode(args[index] as u32 & 0o7777);
    let (named, mode) = match libc::c_long::from(notice.call) {
        libc::SYS_fchmod => (Named::by_descriptor(args[0]), mode(1)),
        libc::SYS_fchmodat => (Named::at(pid, args[0], args[1], 0)?, mode(2)),
        notice::FCHMODAT2 => (Named::at(pid, args[0], args[1], args[3])?, mode(2)),
        // chmod; aarch64 does not have it.
        _ => (Named::by_path(pid, args[0])?, mode(1)),
    };
    let descriptor = named.path.as_deref().and_then(own_descriptor);
    Ok((descriptor.map_or(named, Named::by_descriptor), mode))
}

/// Returns the descriptor named by a path through /proc: C libraries use such paths to change a mode without following symlinks.
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
