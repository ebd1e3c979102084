//! The host side of a launch on Linux.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

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

use super::signal_escalation::{ENDS, Origin, ReceivedSignal};
use crate::broker::BrokerFiles;
use crate::error::{Error, host};
use crate::kernel::confine_broker;
pub use crate::kernel::confine_broker::Agent;
use crate::kernel::sys::{self, SignalSet};
use crate::kernel::threads::require_one_thread;

/// The socket type that keeps message boundaries and reports end of file.
pub const MESSAGES: SocketType = SocketType::SEQPACKET;
/// Flags for sending: a closed peer is an error, not SIGPIPE.
pub const SENDING: SendFlags = SendFlags::NOSIGNAL;
/// Flags for receiving: programs do not inherit received descriptors.
pub const RECEIVING: RecvFlags = RecvFlags::CMSG_CLOEXEC;
/// Flags for opening a directory only as a location.
pub const PLACE: OFlags = OFlags::PATH;

/// Converts permission bits to the system's type.
pub fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

/// Returns the caller's umask. Needs a process with one thread, because reading the umask sets it.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

/// Returns the file type in a mode.
pub fn file_type(mode: u32) -> FileType {
    FileType::from_raw_mode(mode)
}

/// Returns the path of the running program's file, even if the file was replaced.
pub fn this_program() -> Result<PathBuf, Error> {
    Ok("/proc/self/exe".into())
}

/// Creates a pair of connected sockets.
pub fn pair(kind: SocketType) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// Creates a file in memory.
pub fn in_memory() -> io::Result<File> {
    Ok(File::from(memfd_create("silo-job", MemfdFlags::CLOEXEC)?))
}

/// Creates a file without a name in a directory's file system.
pub fn nameless(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Opens the file of a descriptor again, with its own open file description and flags.
pub fn open_again(fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let again = openat(CWD, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags, Mode::empty());
    // A terminal of another user: anybody may open the controlling terminal as `/dev/tty`.
    match again {
        Err(_) if is_own_terminal(fd) => Ok(openat(CWD, "/dev/tty", flags, Mode::empty())?),
        again => Ok(again?),
    }
}

/// True if the terminal controls this process.
pub fn is_own_terminal(fd: BorrowedFd<'_>) -> bool {
    tcgetsid(fd).is_ok_and(|session| getsid(None) == Ok(session))
}

/// True for an `O_PATH` descriptor; it is only a location, which can be opened for more access.
pub fn is_path_only(fd: BorrowedFd<'_>) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

/// Opens a path below a directory without following symlinks.
pub fn beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(dir, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Creates an overlay whiteout, which hides a name of the lower layers.
pub fn make_whiteout(dir: &OwnedFd, name: &Path) -> io::Result<()> {
    Ok(mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// True for a whiteout.
pub fn is_whiteout(_: &Path, data: &Metadata) -> bool {
    file_type(data.mode()) == FileType::CharacterDevice && data.rdev() == 0
}

/// Creates a named pipe.
pub fn make_fifo(dir: &OwnedFd, name: &Path, mode: Mode) -> io::Result<()> {
    Ok(mknodat(dir, name, FileType::Fifo, mode, 0)?)
}

/// The special characters on the wire, in this order.
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

/// Applies modes and special characters to the settings of a new terminal.
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

/// Signals that are forwarded to the program: all that one process sends to another and that can be caught. [`NUMBERED`] adds the real-time
/// signals.
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
/// The real-time signals, except those reserved by the C library.
const NUMBERED: std::ops::RangeInclusive<i32> = 34..=64;

/// Time limit for an answer of the witness. It takes microseconds, unless the witness was stopped.
const WITNESS_PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// The caller's signals, blocked and read from a signalfd. Dropping it restores the signal mask.
pub struct Signals {
    before: SignalSet,
    arriving: OwnedFd,
    witness: RefCell<Option<GroupSignalProbe>>,
}

/// A child in silo's process group that detects signals sent to the whole group. A received signal does not show this.
struct GroupSignalProbe {
    pid: Pid,
    socket: OwnedFd,
    /// A bit for each signal that the witness received and this process has not read yet.
    seen: u64,
}

impl GroupSignalProbe {
    /// Starts the witness. Needs a process with one thread.
    fn start(arriving: BorrowedFd<'_>) -> Result<GroupSignalProbe, Error> {
        let step = "starting a process";
        require_one_thread()?;
        let (ours, theirs) = host(pair(SocketType::STREAM), step)?;
        let parent = getpid();
        match host(sys::fork(), step)?.map(Pid::from_raw) {
            None => {
                // A fork must not unwind into or drop values of the parent.
                let _ = catch_unwind(AssertUnwindSafe(|| testify(&theirs, arriving, parent)));
                sys::exit(0)
            }
            Some(pid) => Ok(GroupSignalProbe { pid: host(pid.ok_or(Errno::SRCH), step)?, socket: ours, seen: 0 }),
        }
    }

    /// True if the witness received the signal as well.
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
            // The witness is still stopped if only this process was continued.
            kill_process(self.pid, Signal::CONT)?;
            answers()?;
        }
        let mut bytes = [0; 8];
        let (length, _) = recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
        Ok(if length == bytes.len() { u64::from_ne_bytes(bytes) } else { 0 })
    }
}

impl Drop for GroupSignalProbe {
    fn drop(&mut self) {
        // The child was not reaped, so its PID cannot have been reused.
        let _ = kill_process(self.pid, Signal::KILL);
        leave(self.pid);
    }
}

/// Children that are ending, and that nobody has to wait for now.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Leaves a child that is ending to [`reap`].
pub fn leave(child: Pid) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
}

/// Waits for the children that were left.
pub fn reap() {
    for child in std::mem::take(&mut *LEFT.lock().unwrap_or_else(PoisonError::into_inner)) {
        while let Err(Errno::INTR) = waitpid(Some(child), WaitOptions::empty()) {}
    }
}

/// Answers each request with the signals received since the last one. The signals are blocked, as in the parent; a signalfd reads the
/// signals of the process that reads it.
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
    /// Blocks the signals and opens a signalfd.
    pub fn take_over() -> Result<Signals, Error> {
        reap();
        let step = "blocking signals";
        let all: Vec<i32> = FORWARDED.into_iter().chain(NUMBERED).collect();
        let (taken, before) = host(sys::block_signals(&all), step)?;
        let arriving = host(sys::signalfd(&taken), step)?;
        Ok(Signals { before, arriving, witness: RefCell::default() })
    }

    /// Starts to distinguish signals to the whole process group from signals to this process. Call it once a program runs.
    pub fn distinguish_group_signals(&self) -> Result<(), Error> {
        self.witness.replace(Some(GroupSignalProbe::start(self.arriving())?));
        Ok(())
    }

    /// Returns the signal mask from before.
    pub fn before(&self) -> SignalSet {
        self.before
    }

    /// Returns the file descriptor that is readable while a signal is pending.
    pub fn arriving(&self) -> BorrowedFd<'_> {
        self.arriving.as_fd()
    }

    /// Consumes all pending signals, and returns one that asks for an end, if any.
    pub fn asks_for_an_end(&self) -> Option<i32> {
        let mut asked = None;
        while let Ok(Some(arrived)) = self.next() {
            asked = asked.or_else(|| ENDS.contains(&arrived.signal).then_some(arrived.signal));
        }
        asked
    }

    /// Returns the next pending signal, if any.
    pub fn next(&self) -> Result<Option<ReceivedSignal>, Error> {
        let Some((signal, from_kernel)) = host(sys::next_signal(self.arriving()), "reading signals")? else { return Ok(None) };
        let saw = self.witness.borrow_mut().as_mut().is_some_and(|witness| witness.saw(signal));
        let origin = match (from_kernel, saw) {
            (true, _) => Origin::Kernel,
            (false, true) => Origin::Group,
            (false, false) => Origin::Process,
        };
        Ok(Some(ReceivedSignal { signal, origin }))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Restoring a valid mask cannot fail.
        let _ = sys::set_blocked_signals(&self.before);
    }
}

/// The target of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalTarget {
    /// This process.
    This,
    /// Its whole process group, as for a key on the terminal.
    Group,
}

/// Stops this process by a signal, until it is continued. If no shell with job control could continue it (an orphaned process group), the
/// kernel ignores stop signals other than SIGSTOP, and the process continues immediately.
pub fn stop_by(signal: i32, who: SignalTarget) -> Result<(), Error> {
    let step = "stopping";
    let signal = host(Signal::from_named_raw(signal).ok_or(Errno::INVAL), step)?;
    // All other signals stay blocked: a key pressed before the terminal is taken back is for the program.
    let (_, taken) = host(sys::block_signals(&[]), step)?;
    host(sys::set_blocked_signals(&taken.without(signal.as_raw())), step)?;
    let stopped = match who {
        SignalTarget::This => kill_process(getpid(), signal),
        SignalTarget::Group => kill_current_process_group(signal),
    };
    host(sys::set_blocked_signals(&taken), step)?;
    host(stopped, step)
}

/// Sends a key's signal, which only the program received, to the other processes of this process group.
pub fn share_key(signal: i32, signals: &Signals) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // This process is in the group; its copy of the signal is discarded below.
        let _ = kill_current_process_group(signal);
        while let Ok(Some(_)) = signals.next() {}
    }
}

/// Runs an operation on a terminal that would stop a background process, with SIGTTOU blocked.
pub fn unstopped<T>(act: impl FnOnce() -> T) -> T {
    let before = sys::block_signals(&[libc::SIGTTOU]);
    let done = act();
    if let Ok((_, before)) = before {
        // Restoring a valid mask cannot fail.
        let _ = sys::set_blocked_signals(&before);
    }
    done
}

/// Opens the controlling terminal, if there is one.
pub fn own_terminal(_: &[bool; 3]) -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, "/dev/tty", flags, Mode::empty()).ok()
}

/// Ends this process by the signal that ended its program; returns if that fails.
pub fn end_by(signal: i32) {
    // Prevents a core dump: this memory is not the program's.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    sys::end_by(signal);
}

/// Returns the command that prints an entry of the user's keyring.
pub fn keyring(service: &str, account: &str) -> Command {
    let mut command = Command::new("secret-tool");
    command.args(["lookup", "service", service, "account", account]);
    command
}

/// A task in a child process. It dies with this process.
pub struct BackgroundTask(Option<Pid>);

/// Runs a task in a child process that is confined for the broker and has only the descriptors `kept`. The process first waits in `ready`,
/// and ends if that returns false. Needs a process with one thread.
pub fn apart<W: Send + 'static>(
    kept: &[RawFd],
    (agent, files): (Agent, &BrokerFiles),
    mut work: W,
    ready: fn(&mut W) -> bool,
    run: fn(W) -> io::Result<()>,
) -> Result<BackgroundTask, Error> {
    require_one_thread()?;
    let parent = getpid();
    match host(sys::fork(), "starting the broker")? {
        Some(pid) => Ok(BackgroundTask(Pid::from_raw(pid))),
        None => {
            // A fork must not unwind into or drop values of the parent.
            let done = catch_unwind(AssertUnwindSafe(|| {
                close_others(kept)?;
                if !ready(&mut work) {
                    return Ok(());
                }
                confine_broker::broker(parent, agent, files).map_err(|failure| io::Error::other(failure.step))?;
                run(work)
            }));
            sys::exit(if matches!(done, Ok(Ok(()))) { 0 } else { 1 })
        }
    }
}

/// Closes all other descriptors. The standard streams become `/dev/null`, so that readers of this process's streams see their end.
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
    // Closed by the last `close_range`.
    std::mem::forget(null);
    sys::close_range(first, u32::MAX)
}

impl BackgroundTask {
    /// No process, for tests of messages.
    #[cfg(test)]
    pub fn none() -> BackgroundTask {
        BackgroundTask(None)
    }

    /// Waits for its end; returns a description of the failure, if it failed.
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

    /// Kills the process and reaps it.
    pub fn kill(&mut self) {
        if let Some(pid) = self.0 {
            // The child was not reaped, so its PID cannot have been reused.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.wait();
    }
}
