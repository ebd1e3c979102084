//! Retries, backoff and timeouts of a fetch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::error::Error;

/// The interval at which cancellation is checked; a person does not notice it.
const LOOK: Duration = Duration::from_millis(50);

/// Progress by which an attempt resets the retry counter. It bounds the number of attempts by the file's size.
const WORTH_BYTES: u64 = 1 << 20;

/// Timeouts, minimum speed and retries.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Timeout of a connection, with DNS lookup and TLS handshake.
    pub connect: Duration,
    /// Timeout for the next bytes of a response.
    pub idle: Duration,
    /// Timeout of a request until the response's head, with redirects.
    pub answer: Duration,
    /// Timeout of a whole document: a signed index, a manifest, a token. Files are bounded by `window` and `least` alone.
    pub document: Duration,
    /// The time in which a response must bring at least `least` bytes.
    pub window: Duration,
    /// The least bytes in each `window`.
    pub least: u64,
    /// Attempts for each candidate, the first included.
    pub attempts: u32,
    /// The backoff after the first failure; doubles after each further one.
    pub first_pause: Duration,
    /// The longest backoff.
    pub max_pause: Duration,
    /// The longest accepted pause of a server (`Retry-After`). Beyond it the request fails, so that the user learns of the limit.
    pub max_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            answer: Duration::from_secs(45),
            document: Duration::from_secs(60),
            window: Duration::from_secs(30),
            // 1 KiB a second, a fifth of a slow telephone modem.
            least: 30 << 10,
            attempts: 4,
            first_pause: Duration::from_millis(500),
            max_pause: Duration::from_secs(8),
            max_wait: Duration::from_secs(60),
        }
    }
}

/// Both reasons to stop: the caller cancelled (Ctrl-C), or another file failed.
pub(super) struct Stop<'a> {
    cancel: &'a AtomicBool,
    failed: AtomicBool,
}

impl<'a> Stop<'a> {
    pub(super) fn new(cancel: &'a AtomicBool) -> Stop<'a> {
        Stop { cancel, failed: AtomicBool::new(false) }
    }

    /// Stops all threads because one file failed.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.cancel.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed)
    }

    /// Fails if the fetch must stop.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.is_set() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Sleeps, unless the fetch must stop.
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

/// Measures the speed of a response, so that a server cannot stall silo with a byte now and then.
pub(super) struct SpeedMeter {
    patience: RetryPolicy,
    /// The time spent waiting in this window; the reader's own work does not count.
    waited: Duration,
    bytes: u64,
}

impl SpeedMeter {
    /// Starts a window.
    pub(super) fn new(patience: RetryPolicy) -> SpeedMeter {
        SpeedMeter { patience, waited: Duration::ZERO, bytes: 0 }
    }

    /// Records bytes that arrived after a wait. If the window was too slow, fails with its bytes and its length.
    pub(super) fn arrived(&mut self, bytes: usize, after: Duration) -> Result<(), (u64, Duration)> {
        self.waited += after;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.waited < self.patience.window {
            return Ok(());
        }
        if self.bytes < self.patience.least {
            return Err((self.bytes, self.waited));
        }
        *self = SpeedMeter::new(self.patience);
        Ok(())
    }
}

/// Counts the attempts at one candidate.
pub(super) struct Attempts {
    patience: RetryPolicy,
    failures: u32,
    best: u64,
}

impl Attempts {
    /// Starts the count with `have` bytes present.
    pub(super) fn new(patience: RetryPolicy, have: u64) -> Attempts {
        Attempts { patience, failures: 0, best: have }
    }

    /// Waits before the retry after `err`, or returns the error if no retry is left.
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
        match self.patience.pause(&err, self.failures) {
            Some(pause) => stop.sleep(pause),
            None => Err(err),
        }
    }
}

impl RetryPolicy {
    /// Returns the pause after so many failures: exponential, or longer if the server wants that. `None` if it wants too long a pause.
    ///
    /// It has no jitter: a handful of connections cannot overload a server.
    fn pause(&self, err: &Error, failures: u32) -> Option<Duration> {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let own = self.first_pause.saturating_mul(doubled).min(self.max_pause);
        match err {
            Error::Status { wait: Some(wait), .. } if *wait > self.max_wait => None,
            Error::Status { wait: Some(wait), .. } => Some(own.max(*wait)),
            _ => Some(own),
        }
    }
}

/// Reads the pause in a `Retry-After` header: seconds, or a date by the server's clock. Anything else counts as none.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    parse_retry_after(text(RETRY_AFTER)?, text(DATE).unwrap_or_default())
}

fn parse_retry_after(value: &str, now: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than a number holds are too many for every limit.
        return Some(value.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let (until, now) = (httpdate::parse_http_date(value).ok()?, httpdate::parse_http_date(now).ok()?);
    // A date in the past is no pause.
    Some(until.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_follow_the_server() {
        let policy = RetryPolicy::default();
        let broken = Error::Broken { url: String::new(), cause: String::new() };
        for (failures, millis) in [(1, 500), (2, 1000), (3, 2000), (5, 8000), (40, 8000)] {
            assert_eq!(policy.pause(&broken, failures), Some(Duration::from_millis(millis)));
        }
        let busy = |seconds| Error::Status { url: String::new(), status: 429, wait: Some(Duration::from_secs(seconds)) };
        let expect = [(0, Some(Duration::from_millis(500))), (30, Some(Duration::from_secs(30))), (61, None)];
        for (seconds, pause) in expect {
            assert_eq!(policy.pause(&busy(seconds), 1), pause, "{seconds}");
        }
    }

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let now = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (value, expect) in [
            ("120", Some(Duration::from_secs(120))),
            (" 0 ", Some(Duration::ZERO)),
            ("99999999999999999999", Some(Duration::MAX)),
            ("Sun, 06 Nov 1994 08:50:00 GMT", Some(Duration::from_secs(23))),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(Duration::ZERO)),
            ("-1", None),
            ("+5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(value, now), expect, "{value}");
        }
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:50:00 GMT", ""), None);
    }

    #[test]
    fn a_window_with_too_few_bytes_is_too_slow() {
        let patience = RetryPolicy { window: Duration::from_secs(30), least: 1000, ..RetryPolicy::default() };
        let second = Duration::from_secs(1);
        let mut pace = SpeedMeter::new(patience);
        // 40 bytes a second are enough; a burst does not count for the next window.
        assert!((0..300).all(|_| pace.arrived(40, second).is_ok()));
        let mut pace = SpeedMeter::new(patience);
        assert!((0..30).all(|at| pace.arrived(if at == 0 { 1 << 30 } else { 1 }, second).is_ok()));
        let slow = (0..100).find_map(|_| pace.arrived(1, second).err());
        assert_eq!(slow, Some((30, Duration::from_secs(30))));
    }

    #[test]
    fn retries_end_and_progress_resets_them() {
        let never = AtomicBool::new(false);
        let stop = Stop::new(&never);
        let patience = RetryPolicy { attempts: 2, first_pause: Duration::ZERO, ..RetryPolicy::default() };
        let broken = || Error::Broken { url: String::new(), cause: String::new() };
        let mut attempts = Attempts::new(patience, 0);
        assert!(attempts.again(broken(), 10, &stop).is_ok());
        assert!(attempts.again(broken(), WORTH_BYTES, &stop).is_ok());
        // The same bytes again are no progress.
        assert!(attempts.again(broken(), WORTH_BYTES, &stop).is_err());
        let gone = Error::Status { url: String::new(), status: 404, wait: None };
        assert!(Attempts::new(patience, 0).again(gone, 0, &stop).is_err());
        let long = Error::Status { url: String::new(), status: 429, wait: Some(Duration::from_secs(3600)) };
        assert!(Attempts::new(patience, 0).again(long, 0, &stop).is_err());
    }
}
