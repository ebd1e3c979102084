//! What happens during a command, as data, for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Receives what happens, from any thread.
pub type Sink<'a> = &'a (dyn Fn(Event) + Sync);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An activity began; `total` is its size in the unit of its kind, where known.
    Started {
        /// The activity, from [`next_id`].
        id: u64,
        /// What sort of work it is.
        kind: Activity,
        /// What is worked on.
        name: String,
        /// Bytes or items in all, where known.
        total: Option<u64>,
    },
    /// An activity got this far, counted from its beginning.
    Progress {
        /// The activity.
        id: u64,
        /// Bytes or items done.
        done: u64,
    },
    /// An activity said something.
    Log {
        /// The activity.
        id: u64,
        /// One line, without its newline.
        line: String,
    },
    /// An activity ended, well or not.
    Finished {
        /// The activity.
        id: u64,
    },
    /// Something worth a plain line.
    Note {
        /// The line.
        text: String,
    },
    /// Something the user should act on.
    Warning {
        /// The line.
        text: String,
    },
}

/// The sorts of work that take longer than a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Walking a whole plan; its size is in nodes.
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
    /// Hashing what is stored.
    Verify,
    /// Making archives of layers.
    Compress,
    /// Making an image's root again of archives.
    Restore,
}

/// Returns an activity number that no other activity of this process has.
pub fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
