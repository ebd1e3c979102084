//! What a host's side does in Linux's own way.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags, fcntl_getfl, memfd_create, mknodat, openat, openat2};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, getpid, getppid, getsid, kill_current_process_group, kill_process, set_dumpable_behavior,
    set_parent_process_death_signal, waitpid,
};
use rustix::pty::{OpenptFlags, openpt};
use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcgetsid};
use rustix::thread::set_name;

use super::insistence::{Arrived, ENDS, Origin};
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

/// The permissions that new files of the caller's lack. Must be called where there is one thread: it is read by being set.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    umask.as_raw_mode()
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

/// Whether a terminal is the one that controls this process.
pub fn is_own_terminal(fd: BorrowedFd<'_>) -> bool {
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

/// Signals that are passed on to the program: all that one process sends to another and that can be caught, and the first of
/// those that programs number themselves.
const FORWARDED: [i32; 20] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGWINCH,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGURG,
    libc::SIGSTKFLT,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];
/// Signals that programs number themselves, behind those that the C library keeps.
const NUMBERED: std::ops::RangeInclusive<i32> = 34..=64;

/// How long a witness may take to answer. It takes microseconds, unless it was stopped.
const WITNESS_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The caller's signals, read instead of acted on; as before when dropped.
pub struct Signals {
    before: SignalSet,
    arriving: OwnedFd,
    witness: RefCell<Option<Witness>>,
}

/// A process of silo's own process group that sees which signals are sent to the whole group: a signal does not say that.
struct Witness {
    pid: Pid,
    socket: OwnedFd,
    /// The signals that it saw and this process has not read yet, a bit each.
    seen: u64,
}

impl Witness {
    /// Starts one. Must be called where there is one thread.
    fn start(arriving: BorrowedFd<'_>) -> Result<Witness, Error> {
        let step = "starting a process";
        native::require_one_thread()?;
        let (ours, theirs) = host(pair(SocketType::STREAM), step)?;
        let parent = getpid();
        match host(sys::fork(), step)?.map(Pid::from_raw) {
            None => {
                // Nothing of this process's own may be unwound into, or dropped: it is a copy.
                let _ = catch_unwind(AssertUnwindSafe(|| testify(&theirs, arriving, parent)));
                sys::exit(0)
            }
            Some(pid) => Ok(Witness { pid: host(pid.ok_or(Errno::SRCH), step)?, socket: ours, seen: 0 }),
        }
    }

    /// Says whether it saw a signal as well.
    fn saw(&mut self, signal: i32) -> bool {
        let bit = u32::try_from(signal - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0);
        self.seen |= self.asked().unwrap_or(0);
        let saw = self.seen & bit != 0;
        self.seen &= !bit;
        saw
    }

    fn asked(&self) -> io::Result<u64> {
        send(&self.socket, b"?", SENDING)?;
        let answers = || poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&WITNESS_PATIENCE));
        if answers()? == 0 {
            // Whoever continued this process alone has left it stopped.
            kill_process(self.pid, Signal::CONT)?;
            answers()?;
        }
        let mut bytes = [0; 8];
        let (length, _) = recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
        Ok(if length == bytes.len() { u64::from_ne_bytes(bytes) } else { 0 })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // It is this process's own child, and was not waited for: its number is its own.
        let _ = kill_process(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// Answers each question with the signals that have come since the last one. They are blocked here, as they are in the
/// process of which this one is a copy; the descriptor reads those of whoever reads it.
fn testify(socket: &OwnedFd, arriving: BorrowedFd<'_>, parent: Pid) -> io::Result<()> {
    set_name(c"silo-witness")?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        return Ok(());
    }
    close_others(&[socket.as_raw_fd(), arriving.as_raw_fd()])?;
    let mut question = [0; 1];
    while matches!(recv(socket, &mut question[..], RecvFlags::empty()), Ok((1, _)) | Err(Errno::INTR)) {
        let mut seen = 0_u64;
        while let Some((signal, _)) = sys::next_signal(arriving)? {
            seen |= u32::try_from(signal - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0);
        }
        send(socket, &seen.to_ne_bytes(), SENDING)?;
    }
    Ok(())
}

impl Signals {
    /// Takes the signals over.
    pub fn take_over() -> Result<Signals, Error> {
        let step = "blocking signals";
        let all: Vec<i32> = FORWARDED.into_iter().chain(NUMBERED).collect();
        let (taken, before) = host(sys::block_signals(&all), step)?;
        let arriving = host(sys::signalfd(&taken), step)?;
        Ok(Signals { before, arriving, witness: RefCell::default() })
    }

    /// From here on tells signals for the whole process group from signals for this process: there is a program now.
    pub fn tell_apart(&self) -> Result<(), Error> {
        self.witness.replace(Some(Witness::start(self.arriving())?));
        Ok(())
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
        let Some((signal, from_kernel)) = host(sys::next_signal(self.arriving()), "reading signals")? else { return Ok(None) };
        let saw = self.witness.borrow_mut().as_mut().is_some_and(|witness| witness.saw(signal));
        let origin = match (from_kernel, saw) {
            (true, _) => Origin::Kernel,
            (false, true) => Origin::Group,
            (false, false) => Origin::Process,
        };
        Ok(Some(Arrived { signal, origin }))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It was the mask before; the kernel takes any mask.
        let _ = sys::set_blocked_signals(&self.before);
    }
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This process.
    This,
    /// Its whole process group, as of a key on the terminal.
    Group,
}

/// Stops this process by a signal, until it is continued. Where nobody could continue it (no shell with job control is
/// above), the kernel stops it by SIGSTOP alone, and it goes on at once.
pub fn stop_by(signal: i32, who: Who) -> Result<(), Error> {
    let step = "stopping";
    let signal = host(Signal::from_named_raw(signal).ok_or(Errno::INVAL), step)?;
    // All other signals wait: a key that is pressed before the terminal is taken back is the program's.
    let (_, taken) = host(sys::block_signals(&[]), step)?;
    host(sys::set_blocked_signals(&taken.without(signal.as_raw())), step)?;
    let stopped = match who {
        Who::This => kill_process(getpid(), signal),
        Who::Group => kill_current_process_group(signal),
    };
    host(sys::set_blocked_signals(&taken), step)?;
    host(stopped, step)
}

/// Sends the other processes of this process's group a signal of a key that only the program has got.
pub fn share_key(signal: i32, signals: &Signals) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // The group has at least this process, which has had it by the key.
        let _ = kill_current_process_group(signal);
        while let Ok(Some(_)) = signals.next() {}
    }
}

/// Does something with a terminal for which a process in its background would be stopped.
pub fn unstopped<T>(act: impl FnOnce() -> T) -> T {
    let before = sys::block_signals(&[libc::SIGTTOU]);
    let done = act();
    if let Ok((_, before)) = before {
        // It was the mask before; the kernel takes any mask.
        let _ = sys::set_blocked_signals(&before);
    }
    done
}

/// Opens the terminal that controls this process, if there is one.
pub fn own_terminal(_: &[bool; 3]) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, "/dev/tty", flags, Mode::empty()).ok()
}

/// Ends this process by a signal, as a program that it has run was ended; returns where that cannot be done.
pub fn end_by(signal: i32) {
    // The memory is not the program's: it is not dumped.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    sys::end_by(signal);
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
