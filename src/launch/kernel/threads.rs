//! The number of threads of this process.

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::error::Error;

/// Fails if this process has more than one thread: a fork of it would not be safe.
pub fn require_one_thread() -> Result<(), Error> {
    // The directory's link count is 2 plus one for each subdirectory, and so for each thread.
    let wanted = StatxFlags::NLINK;
    let tasks = statx(CWD, "/proc/self/task", AtFlags::empty(), wanted);
    let tasks = tasks.map_err(|error| Error::Host { step: "counting threads".to_owned(), source: error.into() })?;
    match u64::from(tasks.stx_nlink).saturating_sub(2) {
        1 => Ok(()),
        count => Err(Error::Threads { count }),
    }
}
