//! What a host's side does in Linux's own way.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, fcntl_getfl, memfd_create, mknodat, openat, openat2};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, getpid, getsid, kill_current_process_group, kill_process, waitpid};
use rustix::pty::{OpenptFlags, openpt};
use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcgetsid};

use super::insistence::{Arrived, ENDS};
use super::streams::host;
use crate::launch::error::Error;
pub use crate::launch::native::confine::Agent;
use crate::launch::native::sys::{self, SignalSet};
use crate::launch::native::{self, confine};

/// The kind of socket that keeps messages apart and has an end.
pub const MESSAGES: SocketType = SocketType::SEQPACKET;
/// How a message is sent: a reader that is gone is an error and no signal.
pub const SENDING: SendFlags = SendFlags::NOSIGNAL;
/// How a message is received: what comes with it is no program's.
pub const RECEIVING: RecvFlags = RecvFlags::CMSG_CLOEXEC;
/// How a directory is opened that is only a place.
pub const PLACE: OFlags = OFlags::PATH;

/// Permission bits as the system takes them.
pub fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

/// The kind of file that a mode tells.
pub fn file_type(mode: u32) -> FileType {
    FileType::from_raw_mode(mode)
}

/// Makes two sockets that are connected.
pub fn pair(kind: SocketType) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// Makes a file that is nowhere.
pub fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("silo-job", MemfdFlags::CLOEXEC)?))
}

/// Makes a file without a name beside a directory.
pub fn nameless(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Opens what a descriptor refers to once more: an open file of its own, with flags of its own.
pub fn open_again(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let again = openat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty());
    // A terminal of another user's: this process's own terminal has a name that anybody may open.
    match again {
        Err(_) if is_own_terminal(fd) => Ok(openat(CWD, "/dev/tty", flags, Mode::empty())?),
        again => Ok(again?),
    }
}

fn is_own_terminal(fd: BorrowedFd<'_>) -> bool {
    tcgetsid(fd).is_ok_and(|session| getsid(None) == Ok(session))
}

/// Whether a descriptor is but a place in the file system, which may be opened anew for more.
pub fn is_path_only(fd: BorrowedFd<'_>) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

/// Opens what is beneath a directory and behind no link.
pub fn beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(dir, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Makes what hides a name of the layers below, as the kernel's overlays have it.
pub fn make_whiteout(dir: &OwnedFd, name: &Path) -> io::Result<()> {
    Ok(mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Whether that is one.
pub fn is_whiteout(_: &Path, data: &Metadata) -> bool {
    file_type(data.mode()) == FileType::CharacterDevice && data.rdev() == 0
}

/// Makes a named pipe.
pub fn make_fifo(dir: &OwnedFd, name: &Path, mode: Mode) -> io::Result<()> {
    Ok(mknodat(dir, name, FileType::Fifo, mode, 0)?)
}

/// The special characters that travel, in this order.
const CODES: [SpecialCodeIndex; 17] = [
    SpecialCodeIndex::VINTR,
    SpecialCodeIndex::VQUIT,
    SpecialCodeIndex::VERASE,
    SpecialCodeIndex::VKILL,
    SpecialCodeIndex::VEOF,
    SpecialCodeIndex::VTIME,
    SpecialCodeIndex::VMIN,
    SpecialCodeIndex::VSWTC,
    SpecialCodeIndex::VSTART,
    SpecialCodeIndex::VSTOP,
    SpecialCodeIndex::VSUSP,
    SpecialCodeIndex::VEOL,
    SpecialCodeIndex::VREPRINT,
    SpecialCodeIndex::VDISCARD,
    SpecialCodeIndex::VWERASE,
    SpecialCodeIndex::VLNEXT,
    SpecialCodeIndex::VEOL2,
];

/// Returns a terminal's modes (input, output, local, control) and special characters.
pub fn terminal(settings: &Termios) -> ([u32; 4], Vec<u8>) {
    let modes = [settings.input_modes.bits(), settings.output_modes.bits(), settings.local_modes.bits(), settings.control_modes.bits()];
    (modes, CODES.into_iter().map(|code| settings.special_codes[code]).collect())
}

/// Lays modes and special characters over those of a terminal that is new.
pub fn new_terminal([input, output, local, control]: [u32; 4], codes: &[u8]) -> io::Result<Termios> {
    let new = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut settings = tcgetattr(&new)?;
    settings.input_modes = InputModes::from_bits_retain(input);
    settings.output_modes = OutputModes::from_bits_retain(output);
    settings.local_modes = LocalModes::from_bits_retain(local);
    settings.control_modes = ControlModes::from_bits_retain(control);
    for (code, value) in CODES.into_iter().zip(codes) {
        settings.special_codes[code] = *value;
    }
    Ok(settings)
}

/// What is passed on to the program. `SIGWINCH` and `SIGTSTP` are treated by themselves.
const FORWARDED: [i32; 9] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCONT, libc::SIGTSTP, libc::SIGWINCH];

/// The caller's signals, read instead of acted on; as before when dropped.
pub struct Signals {
    before: SignalSet,
    arriving: OwnedFd,
}

impl Signals {
    /// Takes the signals over.
    pub fn take_over() -> Result<Signals, Error> {
        let step = "blocking signals";
        let (taken, before) = host(sys::block_signals(&FORWARDED), step)?;
        let arriving = host(sys::signalfd(&taken), step)?;
        Ok(Signals { before, arriving })
    }

    /// What was blocked before.
    pub fn before(&self) -> SignalSet {
        self.before
    }

    /// The descriptor that is readable while a signal waits.
    pub fn arriving(&self) -> BorrowedFd<'_> {
        self.arriving.as_fd()
    }

    /// Takes all signals that wait, and returns one that asks for an end, if one does.
    pub fn asks_for_an_end(&self) -> Option<i32> {
        let mut asked = None;
        while let Ok(Some(arrived)) = self.next() {
            asked = asked.or_else(|| ENDS.contains(&arrived.signal).then_some(arrived.signal));
        }
        asked
    }

    /// Takes the next signal, if one is there.
    pub fn next(&self) -> Result<Option<Arrived>, Error> {
        host(sys::next_signal(self.arriving()), "reading signals")
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It was the mask before; the kernel takes any mask.
        let _ = sys::set_blocked_signals(&self.before);
    }
}

/// Stops this process and its group as Ctrl-Z does, until it is continued. Where nobody could continue it (no shell with
/// job control is above), the kernel does not stop it, and it goes on at once.
pub fn stop_with_group() -> Result<(), Error> {
    let step = "stopping";
    // All other signals wait: a key that is pressed before the terminal is taken back is the program's.
    let (_, taken) = host(sys::block_signals(&[]), step)?;
    host(sys::set_blocked_signals(&taken.without(libc::SIGTSTP)), step)?;
    let stopped = kill_current_process_group(Signal::TSTP);
    host(sys::set_blocked_signals(&taken), step)?;
    host(stopped, step)
}

/// Stops this process, for the caller's shell.
pub fn stop() -> Result<(), Error> {
    host(kill_process(getpid(), Signal::STOP), "stopping")
}

/// A piece of work in a process of its own. It dies with this one.
pub struct Apart(Option<Pid>);

/// Does work in a process of its own that is confined to what a broker does: `kept` are all descriptors that it has. The
/// process first waits in `asked`, and ends if that returns false. Must be called where there is one thread.
pub fn apart<W: Send + 'static>(
    kept: &[RawFd],
    agent: Agent,
    work: W,
    asked: fn(&W) -> bool,
    run: fn(W) -> io::Result<()>,
) -> Result<Apart, Error> {
    native::require_one_thread()?;
    let parent = getpid();
    match host(sys::fork(), "starting the broker")? {
        Some(pid) => Ok(Apart(Pid::from_raw(pid))),
        None => {
            // Nothing of this process's own may be unwound into, or dropped: it is a copy.
            let done = catch_unwind(AssertUnwindSafe(|| {
                close_others(kept)?;
                if !asked(&work) {
                    return Ok(());
                }
                confine::broker(parent, agent).map_err(|failure| io::Error::other(failure.step))?;
                run(work)
            }));
            sys::exit(if matches!(done, Ok(Ok(()))) { 0 } else { 1 })
        }
    }
}

/// Closes all descriptors but these; standard streams lead nowhere, so that whoever reads this process's sees their end.
fn close_others(kept: &[RawFd]) -> io::Result<()> {
    let null = openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    let mut numbers: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|number| *number > 2).collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if number > first {
            sys::close_range(first, number - 1)?;
        }
        first = number + 1;
    }
    // Closed with the others.
    std::mem::forget(null);
    sys::close_range(first, u32::MAX)
}

impl Apart {
    /// Is none, for tests of what is said.
    #[cfg(test)]
    pub fn none() -> Apart {
        Apart(None)
    }

    /// Waits for its end; says how it ended, unless it ended as it should.
    pub fn wait(&mut self) -> Option<String> {
        let pid = self.0.take()?;
        loop {
            match waitpid(Some(pid), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                Ok(Some((_, status))) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(0), _) => None,
                        (_, Some(signal)) => Some(format!("was killed by signal {signal}")),
                        (code, None) => Some(format!("failed with code {}", code.unwrap_or_default())),
                    };
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Ends it.
    pub fn kill(&mut self) {
        if let Some(pid) = self.0 {
            // It is this process's own child, and was not waited for: its number is its own.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.wait();
    }
}
