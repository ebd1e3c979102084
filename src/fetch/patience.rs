//! How often a candidate is tried, how long silo waits in between, and when it stops at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::error::Error;

/// Between two looks at the caller's wish to stop; a person does not feel a tenth of a second.
const LOOK: Duration = Duration::from_millis(50);

/// No server may make silo wait longer than this, whatever its Retry-After says: the user should hear of it instead.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The longest pause that silo chooses itself.
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// An attempt that brought this much more than any before it was worth it, so counting begins anew. It bounds the
/// attempts at a file by its size.
const WORTH_BYTES: u64 = 1 << 20;

/// How long silo waits for others.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until a connection is there, name lookup and TLS included.
    pub connect: Duration,
    /// Between two pieces of an answer, or until its first.
    pub idle: Duration,
    /// From a request to the head of its answer, redirects included.
    pub answer: Duration,
    /// A whole document: a signed index, a manifest, a token. Files are bounded by `window` and `least` alone.
    pub document: Duration,
    /// How long an answer may bring fewer than `least` bytes.
    pub window: Duration,
    /// Bytes that arrive within each `window` at least.
    pub least: u64,
    /// Attempts at one candidate, the first included.
    pub attempts: u32,
    /// After the first failure; doubled after each further one.
    pub first_pause: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(45),
            document: Duration::from_secs(60),
            window: Duration::from_secs(30),
            // 1 KiB a second, a fifth of a bad telephone connection's speed.
            least: 30 << 10,
            attempts: 4,
            first_pause: Duration::from_millis(500),
        }
    }
}

/// The two reasons to stop: the caller's (Ctrl-C), and another file's failure.
pub(super) struct Stop<'a> {
    cancel: &'a AtomicBool,
    failed: AtomicBool,
}

impl<'a> Stop<'a> {
    pub(super) fn new(cancel: &'a AtomicBool) -> Stop<'a> {
        Stop { cancel, failed: AtomicBool::new(false) }
    }

    /// Makes everyone stop because one file cannot be had.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// Fails if it is time to stop.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.is_set() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Sleeps, but wakes up to stop.
    pub(super) fn sleep(&self, pause: Duration) -> Result<(), Error> {
        let end = Instant::now() + pause;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(LOOK));
        }
    }
}

/// Measures how fast an answer arrives, so that no server holds silo by a byte now and then.
pub(super) struct Pace {
    patience: Patience,
    /// Time spent waiting in the window; the reader's own work does not count.
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Begins a window.
    pub(super) fn new(patience: Patience) -> Pace {
        Pace { patience, waited: Duration::ZERO, bytes: 0 }
    }

    /// Adds a piece that arrived after a wait. Returns the bytes and the length of the window if that is too slow.
    pub(super) fn arrived(&mut self, bytes: usize, after: Duration) -> Result<(), (u64, Duration)> {
        self.waited += after;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.waited < self.patience.window {
            return Ok(());
        }
        if self.bytes < self.patience.least {
            return Err((self.bytes, self.waited));
        }
        *self = Pace::new(self.patience);
        Ok(())
    }
}

/// Counts the attempts at one candidate.
pub(super) struct Attempts {
    patience: Patience,
    failures: u32,
    best: u64,
}

impl Attempts {
    /// Begins counting with `have` bytes in hand.
    pub(super) fn new(patience: Patience, have: u64) -> Attempts {
        Attempts { patience, failures: 0, best: have }
    }

    /// Waits before the next attempt after `err`, or gives the error back if there is to be none.
    pub(super) fn again(&mut self, err: Error, have: u64, stop: &Stop) -> Result<(), Error> {
        if !err.is_transient() {
            return Err(err);
        }
        if have >= self.best.saturating_add(WORTH_BYTES) {
            self.best = have;
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures >= self.patience.attempts {
            return Err(err);
        }
        let mut pause = pause(self.patience.first_pause, self.failures);
        if let Error::Status { wait: Some(wait), .. } = &err {
            if *wait > MAX_WAIT {
                return Err(err);
            }
            pause = pause.max(*wait);
        }
        stop.sleep(pause)
    }
}

/// The schedule is the first pause doubled each time. It has no jitter: a handful of connections is no herd.
fn pause(first: Duration, failures: u32) -> Duration {
    let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(doubled).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let first = Duration::from_millis(500);
        for (failures, millis) in [(1, 500), (2, 1000), (3, 2000), (5, 8000), (40, 8000)] {
            assert_eq!(pause(first, failures), Duration::from_millis(millis));
        }
    }

    #[test]
    fn a_window_with_too_few_bytes_is_too_slow() {
        let patience = Patience { window: Duration::from_secs(30), least: 1000, ..Patience::default() };
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(patience);
        // 40 bytes a second are enough, and a burst does not pay for the next window.
        assert!((0..300).all(|_| pace.arrived(40, second).is_ok()));
        let mut pace = Pace::new(patience);
        assert!((0..30).all(|at| pace.arrived(if at == 0 { 1 << 30 } else { 1 }, second).is_ok()));
        let slow = (0..100).find_map(|_| pace.arrived(1, second).err());
        assert_eq!(slow, Some((30, Duration::from_secs(30))));
    }

    #[test]
    fn attempts_end_and_progress_begins_them_anew() {
        let never = AtomicBool::new(false);
        let stop = Stop::new(&never);
        let patience = Patience { attempts: 2, first_pause: Duration::ZERO, ..Patience::default() };
        let broken = || Error::Broken { url: String::new(), cause: String::new() };
        let mut attempts = Attempts::new(patience, 0);
        assert!(attempts.again(broken(), 10, &stop).is_ok());
        assert!(attempts.again(broken(), WORTH_BYTES, &stop).is_ok());
        // The same bytes over again are no progress.
        assert!(attempts.again(broken(), WORTH_BYTES, &stop).is_err());
        let gone = Error::Status { url: String::new(), status: 404, wait: None };
        assert!(Attempts::new(patience, 0).again(gone, 0, &stop).is_err());
        let long = Error::Status { url: String::new(), status: 429, wait: Some(Duration::from_secs(3600)) };
        assert!(Attempts::new(patience, 0).again(long, 0, &stop).is_err());
    }
}
