//! Keeps the last error output of a program while it is passed on.
//!
//! If standard error is a pipe, a socket or a file, the program writes into a pipe of Silo's instead. From the first bytes on a thread copies.
//! Standard output takes the same way if it has the same target, which keeps the order. If standard error is a terminal, the launcher reads
//! the output itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Timespec, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use rustix::stdio::{dup2_stderr, dup2_stdout, stderr, stdout};
use rustix::termios::isatty;

use silo_base::thread;

/// Maximum number of kept bytes, counted from the end.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// Size of one copy.
const PIECE_BYTES: usize = 64 << 10;
/// Maximum wait for a process that outlives the program and writes nothing.
const LAST_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// The copied descriptors are at least this; 0 to 2 are the standard streams.
const FIRST_FREE: i32 = 3;

/// The redirected streams.
pub struct CapturedStderr {
    errors: OwnedFd,
    /// Original standard output, if it has the same target.
    output: Option<OwnedFd>,
    from: Option<OwnedFd>,
    /// Closed at the end of the program.
    stop: Option<OwnedFd>,
    stopped: Option<OwnedFd>,
    copier: Option<JoinHandle<Vec<u8>>>,
}

impl CapturedStderr {
    /// Redirects standard error into a pipe. Returns `None` if it is a terminal, or if that fails.
    pub fn begin() -> Option<CapturedStderr> {
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
        let heard = CapturedStderr {
            errors,
            output,
            from: Some(from.into()),
            stop: Some(stop.into()),
            stopped: Some(stopped.into()),
            copier: None,
        };
        dup2_stderr(&into).ok()?;
        if same && dup2_stdout(&into).is_err() {
            heard.restore();
            return None;
        }
        Some(heard)
    }

    /// Returns the reading end of the pipe, until the thread starts.
    pub fn pipe(&self) -> Option<OwnedFd> {
        self.from.as_ref().and_then(|from| from.try_clone().ok())
    }

    /// Starts the copying thread. Call it when there is something to copy: the start of a program needs a single thread.
    pub fn start(&mut self) {
        let (Some(from), Some(stopped)) = (self.from.take(), self.stopped.take()) else { return };
        let Ok(to) = self.errors.try_clone() else { return self.restore() };
        self.copier = thread::apart(move || copy(from, &to, &stopped)).ok();
        if self.copier.is_none() {
            self.restore();
        }
    }

    /// Restores the streams, and returns the last output.
    pub fn finish(mut self) -> Vec<u8> {
        self.restore();
        drop(self.stop.take());
        match (self.copier.take(), self.from.take(), self.stopped.take()) {
            (Some(copier), ..) => copier.join().unwrap_or_default(),
            // No thread was started: copy Silo's own lines out of the pipe.
            (None, Some(from), Some(stopped)) => copy(from, &self.errors, &stopped),
            _ => Vec::new(),
        }
    }

    fn restore(&self) {
        // If restoring fails, the stream is lost in any case.
        let _ = dup2_stderr(&self.errors);
        if let Some(output) = &self.output {
            let _ = dup2_stdout(output);
        }
    }
}

/// Copies until the last writer has closed, or until the pipe is empty after `stopped` was closed. Returns the end of the data.
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
                // The reader is gone. Closing the pipe lets the program's next write fail.
                if !write_all(to.as_fd(), &piece[..length]) {
                    break;
                }
            }
        }
    }
    kept.into()
}

/// Writes everything, also to a descriptor that another process made non-blocking. Returns false on failure.
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
