//! What a host's side does in macOS's own way. Nothing of it was ever run on a Mac.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path};
use std::thread::JoinHandle;

use rustix::fs::{FileType, Mode, OFlags, RawMode, XattrFlags, fsetxattr, lgetxattr, openat};
use rustix::io::fcntl_setfd;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, getpgid, getpgrp, getpid, getppid, getsid, kill_current_process_group, kill_process};
use rustix::termios::{Termios, isatty, tcgetpgrp};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::insistence::{Arrived, ENDS, Origin};
use super::streams::host;
use crate::launch::error::Error;
use crate::launch::{Check, State, foreign};

/// The kind of socket that keeps messages apart; that the other end is gone is told by an error instead of an end.
pub const MESSAGES: SocketType = SocketType::DGRAM;
/// How a message is sent: SIGPIPE is ignored by every program of Rust.
pub const SENDING: SendFlags = SendFlags::empty();
/// How a message is received.
pub const RECEIVING: RecvFlags = RecvFlags::empty();
/// How a directory is opened that is only a place; it must be readable.
pub const PLACE: OFlags = OFlags::empty();

/// The attribute by which an empty file hides a name.
const WHITEOUT: &str = "user.overlay.whiteout";

/// Permission bits as the system takes them.
pub fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode((bits & 0o7777) as RawMode)
}

/// The permissions that new files of the caller's lack. Must be called where there is one thread: it is read by being set.
pub fn umask() -> u32 {
    let umask = rustix::process::umask(Mode::empty());
    rustix::process::umask(umask);
    umask.as_raw_mode().into()
}

/// The kind of file that a mode tells.
pub fn file_type(mode: u32) -> FileType {
    FileType::from_raw_mode(mode as RawMode)
}

/// Makes two sockets that are connected. Nothing is started between the calls, so nobody inherits them.
pub fn pair(kind: SocketType) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let (one, other) = socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None)?;
    fcntl_setfd(&one, rustix::io::FdFlags::CLOEXEC)?;
    fcntl_setfd(&other, rustix::io::FdFlags::CLOEXEC)?;
    Ok((one, other))
}

/// Makes a file that has no name.
pub fn in_memory() -> io::Result<File> {
    tempfile::tempfile()
}

/// Makes a file without a name beside a directory.
pub fn nameless(dir: &Path) -> io::Result<OwnedFd> {
    Ok(tempfile::tempfile_in(dir.parent().unwrap_or(dir))?.into())
}

/// There is no way to open what a descriptor refers to once more: `/dev/fd` gives the same open file, and `/dev/tty` cannot
/// be polled.
pub fn open_again(_: BorrowedFd<'_>, _: OFlags) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is no such descriptor here.
pub fn is_path_only(_: BorrowedFd<'_>) -> bool {
    false
}

/// Opens what is beneath a directory and behind no link, one step after another.
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

/// Makes what hides a name of the layers below: devices are root's to make, so it is an empty file that says so, which Linux
/// knows and a capture reads as well.
pub fn make_whiteout(dir: &OwnedFd, name: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(fsetxattr(&made, WHITEOUT, b"y", XattrFlags::empty())?)
}

/// Whether that is one.
pub fn is_whiteout(path: &Path, data: &Metadata) -> bool {
    data.is_file() && data.len() == 0 && lgetxattr(path, WHITEOUT, &mut [0; 8]).is_ok()
}

/// A named pipe is of no use in a layer.
pub fn make_fifo(_: &OwnedFd, name: &Path, _: Mode) -> io::Result<()> {
    Err(io::Error::new(ErrorKind::Unsupported, format!("{} is a named pipe", name.display())))
}

/// Returns a terminal's modes (input, output, local, control) and special characters, as Linux numbers them.
pub fn terminal(settings: &Termios) -> ([u32; 4], Vec<u8>) {
    foreign::terminal(settings)
}

/// What is passed on to the program. `SIGWINCH` and `SIGTSTP` are treated by themselves.
const FORWARDED: [i32; 9] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCONT, libc::SIGTSTP, libc::SIGWINCH];

/// The caller's signals, noted instead of acted on.
pub struct Signals {
    arriving: UnixStream,
    delivery: RefCell<SignalDelivery<UnixStream, SignalOnly>>,
    waiting: RefCell<VecDeque<i32>>,
}

impl Signals {
    /// Takes the signals over.
    pub fn take_over() -> Result<Signals, Error> {
        let step = "taking signals over";
        let (arriving, noting) = host(UnixStream::pair(), step)?;
        let read = host(arriving.try_clone(), step)?;
        let delivery = host(SignalDelivery::with_pipe(read, noting, SignalOnly, FORWARDED), step)?;
        Ok(Signals { arriving, delivery: RefCell::new(delivery), waiting: RefCell::default() })
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
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            waiting.extend(self.delivery.borrow_mut().pending());
        }
        let origin = |signal| if is_key(signal) { Origin::Kernel } else { Origin::Process };
        Ok(waiting.pop_front().map(|signal| Arrived { signal, origin: origin(signal) }))
    }

    /// There is no way to tell signals for the whole process group from signals for this process.
    pub fn tell_apart(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.delivery.borrow().handle().close();
    }
}

/// Whether a signal is taken for a key of the terminal: who sent it is not told here.
fn is_key(signal: i32) -> bool {
    let is_of_terminal = [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGHUP, libc::SIGWINCH].contains(&signal);
    is_of_terminal && (isatty(rustix::stdio::stdin()) || isatty(rustix::stdio::stdout()) || isatty(rustix::stdio::stderr()))
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This process.
    This,
    /// Its whole process group, as of a key on the terminal.
    Group,
}

/// Stops this process, until it is continued; goes on at once where nobody could continue it.
pub fn stop_by(signal: i32, who: Who) -> Result<(), Error> {
    let step = "stopping";
    match who {
        _ if signal != libc::SIGSTOP && !has_shell() => Ok(()),
        Who::This => host(kill_process(getpid(), Signal::STOP), step),
        Who::Group => host(kill_current_process_group(Signal::STOP), step),
    }
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
    act()
}

/// Whether a terminal is the one that controls this process.
pub fn is_own_terminal(fd: BorrowedFd<'_>) -> bool {
    tcgetpgrp(fd).is_ok()
}

/// Copies a standard stream that is the terminal which controls this process, if one is: `/dev/tty` cannot be polled.
pub fn own_terminal(on: &[bool; 3]) -> Option<OwnedFd> {
    let all = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let (stream, _) = all.into_iter().zip(on).find(|(_, is_there)| **is_there)?;
    rustix::io::fcntl_dupfd_cloexec(stream, 3).ok()
}

/// Ends this process by a signal, as a program that it has run was ended; returns where that cannot be done.
pub fn end_by(signal: i32) {
    // What it refuses is told by an exit code.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Whether a process of this session but of another group is above: a shell with job control.
fn has_shell() -> bool {
    let above = getppid();
    let is_of_session = above.is_some() && getsid(above).ok() == getsid(None).ok();
    is_of_session && getpgid(above).is_ok_and(|group| group != getpgrp())
}

/// Tries whether the file system of a directory tells names apart that differ in letters' case alone: packages have such.
pub fn probe_names(dir: &Path) -> Check {
    let name = "file names";
    let tried = tempfile::Builder::new().prefix("case-").tempfile_in(dir).map(|file| {
        let upper = file.path().file_name().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        dir.join(upper).exists()
    });
    let check = |state, detail: String, cure: &str| Check { name, state, detail, cure: cure.to_owned() };
    match tried {
        Ok(false) => check(State::Ok, format!("{} tells upper from lower case", dir.display()), ""),
        Ok(true) => check(
            State::Missing,
            format!("{} takes names for one that differ in case, and packages have such", dir.display()),
            "put ~/.silo on a volume of the format APFS (Case-sensitive); docs/macos.md says how",
        ),
        Err(error) => check(State::Missing, format!("{}: {error}", dir.display()), ""),
    }
}

/// Whether the broker asks the user's ssh agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// It is asked.
    Asked,
    /// There is none.
    None,
}

/// A piece of work in a thread of its own: nothing of another process is confined here.
pub struct Apart(Option<JoinHandle<io::Result<()>>>);

/// Does work in a thread of its own, which first waits in `asked` and ends if that returns false.
pub fn apart<W: Send + 'static>(
    _: &[RawFd],
    _: Agent,
    work: W,
    asked: fn(&W) -> bool,
    run: fn(W) -> io::Result<()>,
) -> Result<Apart, Error> {
    let work = move || if asked(&work) { run(work) } else { Ok(()) };
    let started = crate::thread::apart(work).map_err(io::Error::other);
    host(started, "starting the broker").map(|thread| Apart(Some(thread)))
}

impl Apart {
    /// Is none, for tests of what is said.
    #[cfg(test)]
    pub fn none() -> Apart {
        Apart(None)
    }

    /// Waits for its end; says how it ended, unless it ended as it should.
    pub fn wait(&mut self) -> Option<String> {
        match self.0.take()?.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("failed: {error}")),
            Err(_) => Some("panicked".to_owned()),
        }
    }

    /// A thread cannot be ended; this process does not wait for it.
    pub fn kill(&mut self) {
        self.0 = None;
    }
}
