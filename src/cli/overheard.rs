//! The last that a program printed as errors, kept while it goes where it goes.
//!
//! Where errors go to a pipe or a file, they pass through a pipe of silo's own, which a thread copies. Output that goes to the
//! same place passes there, too, so that the order stays. Where errors go to a terminal, the launcher sees them itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Timespec, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use rustix::stdio::{dup2_stderr, dup2_stdout, stderr, stdout};
use rustix::termios::isatty;

use crate::thread;

/// The most that is kept, from the end.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// Bytes that are copied at once.
const PIECE_BYTES: usize = 64 << 10;
/// How long a process that outlives the program may be silent before it is not waited for.
const LAST_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// No descriptor below this is used for the copies: the first three are the streams themselves.
const FIRST_FREE: i32 = 3;

/// The streams while they are listened to.
pub struct Overheard {
    errors: OwnedFd,
    /// Where output went, if it goes to the same place.
    output: Option<OwnedFd>,
    from: Option<OwnedFd>,
    /// Closed when nothing more is to come.
    stop: Option<OwnedFd>,
    stopped: Option<OwnedFd>,
    copier: Option<JoinHandle<Vec<u8>>>,
}

impl Overheard {
    /// Puts a pipe before where errors go; `None` where that is a terminal, or cannot be done.
    pub fn begin() -> Option<Overheard> {
        if isatty(stderr()) {
            return None;
        }
        let place = |fd: BorrowedFd<'_>| fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino, FileType::from_raw_mode(stat.st_mode)));
        let errors_go = place(stderr())?;
        if !matches!(errors_go.2, FileType::Fifo | FileType::RegularFile | FileType::Socket) {
            return None;
        }
        let same = place(stdout()).is_some_and(|output| output == errors_go);
        let errors = fcntl_dupfd_cloexec(stderr(), FIRST_FREE).ok()?;
        let output = if same { Some(fcntl_dupfd_cloexec(stdout(), FIRST_FREE).ok()?) } else { None };
        let (from, into) = io::pipe().ok()?;
        let (stopped, stop) = io::pipe().ok()?;
        let heard =
            Overheard { errors, output, from: Some(from.into()), stop: Some(stop.into()), stopped: Some(stopped.into()), copier: None };
        dup2_stderr(&into).ok()?;
        if same && dup2_stdout(&into).is_err() {
            heard.restore();
            return None;
        }
        Some(heard)
    }

    /// Begins to copy. To be called when the program has started: a thread is made for it.
    pub fn start(&mut self) {
        let (Some(from), Some(stopped)) = (self.from.take(), self.stopped.take()) else { return };
        let Ok(to) = self.errors.try_clone() else { return self.restore() };
        self.copier = thread::apart(move || copy(from, &to, &stopped)).ok();
        if self.copier.is_none() {
            self.restore();
        }
    }

    /// Puts the streams back, and returns the last that came.
    pub fn finish(mut self) -> Vec<u8> {
        self.restore();
        drop(self.stop.take());
        match (self.copier.take(), self.from.take(), self.stopped.take()) {
            (Some(copier), ..) => copier.join().unwrap_or_default(),
            // Nothing was started; lines of silo itself wait in the pipe.
            (None, Some(from), Some(stopped)) => copy(from, &self.errors, &stopped),
            _ => Vec::new(),
        }
    }

    fn restore(&self) {
        // A stream that cannot be put back is lost in any case.
        let _ = dup2_stderr(&self.errors);
        if let Some(output) = &self.output {
            let _ = dup2_stdout(output);
        }
    }
}

/// Copies until the last writer is gone, or until there is nothing more after `stopped` was closed; returns the end of it.
fn copy(from: OwnedFd, to: &OwnedFd, stopped: &OwnedFd) -> Vec<u8> {
    let mut kept = VecDeque::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut is_stopped = false;
    loop {
        let mut fds = vec![PollFd::new(&from, PollFlags::IN)];
        if !is_stopped {
            fds.push(PollFd::new(stopped, PollFlags::IN));
        }
        match poll(&mut fds, is_stopped.then_some(&LAST_PAUSE)) {
            Err(Errno::INTR) => continue,
            Err(_) => break,
            Ok(0) => break,
            Ok(_) => {}
        }
        let readable = !fds[0].revents().is_empty();
        is_stopped |= fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if !readable {
            continue;
        }
        match read(&from, &mut piece) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => break,
            Ok(length) => {
                kept.extend(&piece[..length]);
                let over = kept.len().saturating_sub(MAX_KEPT_BYTES);
                kept.drain(..over);
                // Without a reader the program is to learn of it: with the pipe closed, its next write fails.
                if !write_all(to.as_fd(), &piece[..length]) {
                    break;
                }
            }
        }
    }
    kept.into()
}

/// Writes all of it, also to a descriptor that somebody made non-blocking; says whether that was possible.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None)),
            Err(_) => return false,
        }
    }
    true
}
