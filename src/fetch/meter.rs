//! Turns received bytes into progress events, at most ten a second for each activity.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use silo_base::event::{Activity, Event, Sink, next_id};

/// The least time between two events of an activity; faster updates are unreadable.
const PACE: Duration = Duration::from_millis(100);

/// The progress of all files of one call.
pub(super) struct Total<'a> {
    sink: Sink<'a>,
    id: u64,
    done: AtomicU64,
    told: Mutex<Option<Instant>>,
}

/// The progress of one file, and its part in the total if there is one.
pub(super) struct Meter<'a> {
    sink: Sink<'a>,
    total: Option<&'a Total<'a>>,
    id: u64,
    done: u64,
    told: Option<Instant>,
}

impl<'a> Total<'a> {
    /// Starts an activity of `size` bytes.
    pub(super) fn start(sink: Sink<'a>, name: &str, size: Option<u64>) -> Total<'a> {
        Total { sink, id: start(sink, name, size), done: AtomicU64::new(0), told: Mutex::default() }
    }

    /// Starts the activity of one of the files.
    pub(super) fn file(&'a self, name: &str, size: Option<u64>) -> Meter<'a> {
        let mut meter = Meter::start(self.sink, name, size);
        meter.total = Some(self);
        meter
    }

    /// Shows a line to the user.
    pub(super) fn note(&self, text: String) {
        (self.sink)(Event::Note { text });
    }

    fn report_if_due(&self) {
        // Another thread holds the clock and reports.
        let Ok(mut told) = self.told.try_lock() else {
            return;
        };
        if is_due(*told) {
            *told = Some(Instant::now());
            (self.sink)(Event::Progress { id: self.id, done: self.done.load(Ordering::Relaxed) });
        }
    }
}

impl Drop for Total<'_> {
    fn drop(&mut self) {
        (self.sink)(Event::Progress { id: self.id, done: self.done.load(Ordering::Relaxed) });
        (self.sink)(Event::Finished { id: self.id });
    }
}

impl<'a> Meter<'a> {
    /// Starts the activity of a single file.
    pub(super) fn start(sink: Sink<'a>, name: &str, size: Option<u64>) -> Meter<'a> {
        Meter { sink, total: None, id: start(sink, name, size), done: 0, told: None }
    }

    /// Sets the number of bytes present; it may shrink when a download restarts.
    pub(super) fn set(&mut self, done: u64) {
        if let Some(total) = self.total {
            // Two's complement: adding the wrapped difference subtracts when the file shrank.
            total.done.fetch_add(done.wrapping_sub(self.done), Ordering::Relaxed);
            total.report_if_due();
        }
        self.done = done;
        if is_due(self.told) {
            self.told = Some(Instant::now());
            (self.sink)(Event::Progress { id: self.id, done });
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        (self.sink)(Event::Progress { id: self.id, done: self.done });
        (self.sink)(Event::Finished { id: self.id });
    }
}

/// The first event is always due: a server may stall after its first bytes.
fn is_due(told: Option<Instant>) -> bool {
    told.is_none_or(|told| told.elapsed() >= PACE)
}

fn start(sink: Sink, name: &str, total: Option<u64>) -> u64 {
    let id = next_id();
    sink(Event::Started { id, kind: Activity::Fetch, name: name.to_owned(), total });
    id
}
