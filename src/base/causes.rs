//! Errors and their causes.

use std::error::Error;
use std::io;

use crate::thread::NoThread;

/// Returns the messages of an error and its causes, outermost first; skips a cause that already ends the previous message.
pub fn of(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for error in chain(error) {
        let message = error.to_string();
        if messages.last().is_none_or(|last| !last.ends_with(&message)) {
            messages.push(message);
        }
    }
    messages
}

/// Returns true if some cause is the limit of processes and threads.
pub fn is_out_of_processes(error: &(dyn Error + 'static)) -> bool {
    let refused = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::AGAIN.raw_os_error());
    chain(error).any(|error| error.is::<NoThread>() || error.downcast_ref::<io::Error>().is_some_and(refused))
}

/// Returns true if some cause is a full disk.
pub fn is_full_disk(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::StorageFull))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}
