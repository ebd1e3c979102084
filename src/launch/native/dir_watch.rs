//! Reports names that are created, removed or renamed in directories.
//!
//! The kernel has two interfaces. `fcntl(F_NOTIFY)` sends a signal for each open directory, and closing it does not block. An inotify
//! descriptor, used if the kernel lacks the former, delays the end of its process by 5 to 20 ms: closing one waits for a kernel-wide grace
//! period.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use rustix::fs::{Mode, OFlags, fstat, open, stat};
use rustix::io::Errno;

use crate::kernel::sys;

/// Buffer for several events; their content is not used.
const EVENT_BYTES: usize = 4096;

/// The directories that this process watches.
pub struct Changes {
    arriving: OwnedFd,
    by: Method,
}

enum Method {
    /// The directories with signals enabled.
    Signals(BTreeMap<PathBuf, OwnedFd>),
    Inotify,
}

impl Changes {
    /// Creates a watcher without directories. Blocks `SIGIO` in the calling thread, which must be the process's only one.
    pub fn new() -> io::Result<Changes> {
        let (signals, _) = sys::block_signals(&[libc::SIGIO])?;
        Ok(Changes { arriving: sys::signalfd(&signals)?, by: Method::Signals(BTreeMap::new()) })
    }

    fn by_inotify() -> io::Result<Changes> {
        Ok(Changes { arriving: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?, by: Method::Inotify })
    }

    /// Watches the directories that now have these paths. A missing one is skipped; the watch on its parent reports when it appears.
    pub fn watch<'a>(&mut self, dirs: impl Iterator<Item = &'a Path> + Clone) -> io::Result<()> {
        for dir in dirs.clone() {
            match self.add(dir) {
                // The kernel, or an administrator (`fs.dir-notify-enable`), has disabled these signals.
                Err(Errno::INVAL) if matches!(self.by, Method::Signals(_)) => {
                    *self = Changes::by_inotify()?;
                    return self.watch(dirs);
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, dir: &Path) -> Result<(), Errno> {
        let Method::Signals(watched) = &mut self.by else {
            let changes = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
            return add_watch(&self.arriving, dir, changes | WatchFlags::ONLYDIR).map(drop);
        };
        let is_same = |old: &OwnedFd| -> Result<bool, Errno> {
            let (old, now) = (fstat(old)?, stat(dir)?);
            Ok((old.st_dev, old.st_ino) == (now.st_dev, now.st_ino))
        };
        if watched.get(dir).is_some_and(|old| is_same(old) == Ok(true)) {
            return Ok(());
        }
        watched.remove(dir);
        let opened = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        sys::notify(opened.as_fd()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        watched.insert(dir.to_owned(), opened);
        Ok(())
    }

    /// Waits for a change since the last wait; adding a directory also ends a wait.
    pub fn wait(&self) -> Result<(), Errno> {
        match poll(&mut [PollFd::new(&self.arriving, PollFlags::IN)], None) {
            Err(Errno::INTR) => return Ok(()),
            ready => ready?,
        };
        loop {
            match rustix::io::read(&self.arriving, &mut [0; EVENT_BYTES]) {
                Ok(1..) | Err(Errno::INTR) => {}
                Ok(0) | Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    // Signals need a separate process: see tests/guards.rs.
    #[test]
    fn inotify_tells_of_a_directory_that_was_replaced() {
        let place = tempfile::tempdir().expect("a directory");
        let (dir, new) = (place.path().join("dir"), place.path().join("new"));
        fs::create_dir(&dir).expect("made");
        let mut changes = Changes::by_inotify().expect("a descriptor");
        let watched = [place.path(), &dir];
        changes.watch(watched.into_iter()).expect("watched");
        fs::write(dir.join("one"), "").expect("written");
        changes.wait().expect("reported");
        fs::create_dir(&new).expect("made");
        fs::remove_dir_all(&dir).expect("removed");
        fs::rename(&new, &dir).expect("renamed");
        changes.wait().expect("reported");
        changes.watch(watched.into_iter()).expect("watched");
        fs::write(dir.join("two"), "").expect("written");
        changes.wait().expect("reported");
    }
}
