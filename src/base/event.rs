//! Events during a command, as data, for the user interface.

use std::sync::atomic::{AtomicU64, Ordering};

/// Receives events from any thread.
pub type Sink<'a> = &'a (dyn Fn(Event) + Sync);

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An activity began; `total` is its size in the unit of its kind, if known.
    Started {
        /// The activity, from [`next_id`].
        id: u64,
        /// The kind of work.
        kind: Activity,
        /// The object of the work.
        name: String,
        /// Total bytes or items, if known.
        total: Option<u64>,
    },
    /// Progress of an activity, counted from its beginning.
    Progress {
        /// The activity.
        id: u64,
        /// Bytes or items done.
        done: u64,
    },
    /// Output of an activity.
    Log {
        /// The activity.
        id: u64,
        /// One line, without its newline.
        line: String,
    },
    /// An activity ended, successfully or not.
    Finished {
        /// The activity.
        id: u64,
    },
    /// A message.
    Note {
        /// The line.
        text: String,
    },
    /// A message that the user should act on.
    Warning {
        /// The line.
        text: String,
    },
}

/// Runs `work` as one activity.
pub fn activity<T>(sink: Sink<'_>, kind: Activity, name: &str, total: Option<u64>, work: impl FnOnce(u64) -> T) -> T {
    let id = next_id();
    sink(Event::Started { id, kind, name: name.to_owned(), total });
    let done = work(id);
    sink(Event::Finished { id });
    done
}

/// Kinds of work that take longer than a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executing a plan; its size is in nodes.
    Build,
    /// Reading indexes and solving.
    Resolve,
    /// Fetching files.
    Fetch,
    /// Unpacking packages into layers.
    Unpack,
    /// Running a build step.
    Step,
    /// Committing a layer.
    Commit,
    /// Composing an image's root.
    Compose,
    /// Verifying stored files.
    Verify,
    /// Sending blobs to a repository.
    Send,
    /// Making archives of layers.
    Compress,
    /// Making an image's root from archives.
    Restore,
}

/// Returns an activity id that is unique in this process.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
