//! The host side of a launch on macOS. This code has never run on a Mac.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use rustix::fs::{FileType, Mode, OFlags, RawMode, XattrFlags, fsetxattr, lgetxattr, openat};
use rustix::io::fcntl_setfd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, getpgid, getpgrp, getpid, getppid, getsid, kill_current_process_group, kill_process};
use rustix::termios::{Termios, isatty, tcgetpgrp};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::signal_escalation::{ENDS, Origin, ReceivedSignal};
use crate::broker::BrokerFiles;
use crate::check::{Check, State};
use crate::error::{Error, host};
use crate::linux_abi;

/// The socket type that keeps message boundaries; a closed peer is reported as an error, not as end of file.
pub const MESSAGES: SocketType = SocketType::DGRAM;
/// Flags for sending: every Rust program ignores SIGPIPE.
pub const SENDING: SendFlags = SendFlags::empty();
/// Flags for receiving.
pub const RECEIVING: RecvFlags = RecvFlags::empty();
/// Flags for opening a directory only as a location; it must be readable.
pub const PLACE: OFlags = OFlags::empty();

/// The extended attribute that makes an empty file a whiteout.
const WHITEOUT: &str = "user.overlay.whiteout";

/// Converts permission bits to the system's type.
pub fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode((bits & 0o7777) as RawMode)
}

/// Returns the caller's umask. Needs a process with one thread, because reading the umask sets it.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    umask.as_raw_mode().into()
}

/// Returns the path of the running program's file, with symlinks resolved.
pub fn this_program() -> Result<PathBuf, Error> {
    host(std::env::current_exe().and_then(std::fs::canonicalize), "finding this program's own file")
}

/// Returns the file type in a mode.
pub fn file_type(mode: u32) -> FileType {
    FileType::from_raw_mode(mode as RawMode)
}

/// Creates a pair of connected sockets. No process starts between the calls, so none inherits them.
pub fn pair(kind: SocketType) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None)?;
    fcntl_setfd(&one, rustix::io::FdFlags::CLOEXEC)?;
    fcntl_setfd(&other, rustix::io::FdFlags::CLOEXEC)?;
    Ok((one, other))
}

/// Creates a file without a name.
pub fn in_memory() -> io::Result<File> {
    tempfile::tempfile()
}

/// Creates a file without a name next to a directory.
pub fn nameless(dir: &Path) -> io::Result<OwnedFd> {
    Ok(tempfile::tempfile_in(dir.parent().unwrap_or(dir))?.into())
}

/// Always fails: `/dev/fd` gives the same open file description, and `/dev/tty` cannot be polled.
pub fn open_again(_: BorrowedFd<'_>, _: OFlags) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Returns false: macOS has no `O_PATH` descriptors.
pub fn is_path_only(_: BorrowedFd<'_>) -> bool {
    false
}

/// Opens a path below a directory, component by component, without following symlinks.
pub fn beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let step = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(dir, ".", step, Mode::empty())?;
    let mut names = path.components().filter(|part| *part != Component::CurDir).peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else { return Err(ErrorKind::InvalidInput.into()) };
        let flags = if names.peek().is_some() { step } else { flags | OFlags::NOFOLLOW | OFlags::CLOEXEC };
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

/// Creates a whiteout, which hides a name of the lower layers: an empty file with an extended attribute. Only root can make device files.
/// Linux and a capture of changes both understand this form.
pub fn make_whiteout(dir: &OwnedFd, name: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(fsetxattr(&made, WHITEOUT, b"y", XattrFlags::empty())?)
}

/// True for a whiteout.
pub fn is_whiteout(path: &Path, data: &Metadata) -> bool {
    data.is_file() && data.len() == 0 && lgetxattr(path, WHITEOUT, &mut [0; 8]).is_ok()
}

/// Always fails: named pipes in a layer are not supported here.
pub fn make_fifo(_: &OwnedFd, name: &Path, _: Mode) -> io::Result<()> {
    Err(io::Error::new(ErrorKind::Unsupported, format!("{} is a named pipe", name.display())))
}

/// Returns a terminal's modes (input, output, local, control) and special characters in Linux's numbers.
pub fn terminal(settings: &Termios) -> ([u32; 4], Vec<u8>) {
    linux_abi::terminal(settings)
}

/// Signals that are forwarded to the program. `SIGWINCH` and `SIGTSTP` get special treatment.
const FORWARDED: [i32; 9] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCONT, libc::SIGTSTP, libc::SIGWINCH];

/// The caller's signals, recorded by handlers.
pub struct Signals {
    arriving: UnixStream,
    delivery: RefCell<SignalDelivery<UnixStream, SignalOnly>>,
    waiting: RefCell<VecDeque<i32>>,
}

impl Signals {
    /// Installs the handlers.
    pub fn take_over() -> Result<Signals, Error> {
        let step = "taking signals over";
        let (arriving, noting) = host(UnixStream::pair(), step)?;
        let read = host(arriving.try_clone(), step)?;
        let delivery = host(SignalDelivery::with_pipe(read, noting, SignalOnly, FORWARDED), step)?;
        Ok(Signals { arriving, delivery: RefCell::new(delivery), waiting: RefCell::default() })
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
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            waiting.extend(self.delivery.borrow_mut().pending());
        }
        let origin = |signal| if is_key(signal) { Origin::Kernel } else { Origin::Process };
        Ok(waiting.pop_front().map(|signal| ReceivedSignal { signal, origin: origin(signal) }))
    }

    /// Does nothing: macOS cannot distinguish signals to the whole process group from signals to this process.
    pub fn distinguish_group_signals(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.delivery.borrow().handle().close();
    }
}

/// True if a signal is assumed to come from a key of the terminal; macOS does not report the sender.
fn is_key(signal: i32) -> bool {
    let is_of_terminal = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGHUP, libc::SIGWINCH].contains(&signal);
    is_of_terminal && (isatty(rustix::stdio::stdin()) || isatty(rustix::stdio::stdout()) || isatty(rustix::stdio::stderr()))
}

/// The target of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalTarget {
    /// This process.
    This,
    /// Its whole process group, as for a key on the terminal.
    Group,
}

/// Stops this process until it is continued; returns immediately if no shell could continue it.
pub fn stop_by(signal: i32, who: SignalTarget) -> Result<(), Error> {
    let step = "stopping";
    match who {
        _ if signal != libc::SIGSTOP && !has_shell() => Ok(()),
        SignalTarget::This => host(kill_process(getpid(), Signal::STOP), step),
        SignalTarget::Group => host(kill_current_process_group(Signal::STOP), step),
    }
}

/// Sends a key's signal, which only the program received, to the other processes of this process group.
pub fn share_key(signal: i32, signals: &Signals) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // This process is in the group; its copy of the signal is discarded below.
        let _ = kill_current_process_group(signal);
        while let Ok(Some(_)) = signals.next() {}
    }
}

/// Runs an operation on a terminal that would stop a background process. SIGTTOU is not blocked here.
pub fn unstopped<T>(act: impl FnOnce() -> T) -> T {
    act()
}

/// True if the terminal controls this process.
pub fn is_own_terminal(fd: BorrowedFd<'_>) -> bool {
    tcgetpgrp(fd).is_ok()
}

/// Copies a standard stream that is the controlling terminal, if there is one: `/dev/tty` cannot be polled.
pub fn own_terminal(on: &[bool; 3]) -> Option<OwnedFd> {
    let all = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let (stream, _) = all.into_iter().zip(on).find(|(_, is_there)| **is_there)?;
    rustix::io::fcntl_dupfd_cloexec(stream, 3).ok()
}

/// Ends this process by the signal that ended its program; returns if that fails.
pub fn end_by(signal: i32) {
    // After a failure the caller exits with a code.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// True if the parent is in this session but in another process group: a shell with job control.
fn has_shell() -> bool {
    let above = getppid();
    let is_of_session = above.is_some() && getsid(above).ok() == getsid(None).ok();
    is_of_session && getpgid(above).is_ok_and(|group| group != getpgrp())
}

/// Checks if a directory's file system is case-sensitive: packages contain names that differ only in case.
pub fn probe_names(dir: &Path) -> Check {
    let name = "file names";
    let tried = tempfile::Builder::new().prefix("case-").tempfile_in(dir).map(|file| {
        let upper = file.path().file_name().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        dir.join(upper).exists()
    });
    let check = |state, detail: String, cure: &str| Check { name, state, detail, cure: cure.to_owned() };
    match tried {
        Ok(false) => check(State::Ok, format!("{} is case-sensitive", dir.display()), ""),
        Ok(true) => check(
            State::Missing,
            format!("{} is not case-sensitive, and packages contain names that differ only in case", dir.display()),
            "put ~/.silo on a volume of the format APFS (Case-sensitive); see docs/macos.md",
        ),
        Err(error) => check(State::Missing, format!("{}: {error}", dir.display()), ""),
    }
}

/// The broker's access to the user's ssh agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It uses the agent.
    Asked,
    /// There is no agent.
    None,
}

/// Returns the command that prints an entry of the user's keychain.
pub fn keyring(service: &str, account: &str) -> Command {
    let mut command = Command::new("security");
    command.args(["find-generic-password", "-w", "-s", service, "-a", account]);
    command
}

/// A task in a thread; macOS has no confined broker process.
pub struct BackgroundTask(Option<JoinHandle<io::Result<()>>>);

/// Runs a task in a thread, which first waits in `ready` and ends if that returns false.
pub fn apart<W: Send + 'static>(
    _: &[RawFd],
    _: (Agent, &BrokerFiles),
    mut work: W,
    ready: fn(&mut W) -> bool,
    run: fn(W) -> io::Result<()>,
) -> Result<BackgroundTask, Error> {
    let work = move || if ready(&mut work) { run(work) } else { Ok(()) };
    let started = silo_base::thread::apart(work).map_err(io::Error::other);
    host(started, "starting the broker").map(|thread| BackgroundTask(Some(thread)))
}

impl BackgroundTask {
    /// No thread, for tests of messages.
    #[cfg(test)]
    pub fn none() -> BackgroundTask {
        BackgroundTask(None)
    }

    /// Waits for its end; returns a description of the failure, if it failed.
    pub fn wait(&mut self) -> Option<String> {
        match self.0.take()?.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("failed: {error}")),
            Err(_) => Some("panicked".to_owned()),
        }
    }

    /// Detaches the thread: a thread cannot be killed.
    pub fn kill(&mut self) {
        self.0 = None;
    }
}
