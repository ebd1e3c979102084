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
    has_kind(error, io::ErrorKind::StorageFull)
}

/// Returns true if some cause is a read-only file system.
pub fn is_read_only(error: &(dyn Error + 'static)) -> bool {
    has_kind(error, io::ErrorKind::ReadOnlyFilesystem)
}

/// Returns true if some cause is the system's refusal to open or change a file of this user.
pub fn is_denied(error: &(dyn Error + 'static)) -> bool {
    let denied = |error: &io::Error| error.raw_os_error().is_some() && error.kind() == io::ErrorKind::PermissionDenied;
    chain(error).any(|error| error.downcast_ref::<io::Error>().is_some_and(denied))
}

fn has_kind(error: &(dyn Error + 'static), kind: io::ErrorKind) -> bool {
    chain(error).any(|error| error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}
