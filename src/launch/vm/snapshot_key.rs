//! The place of a snapshot on disk, named by a hash of its inputs, and checks of its files.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, open, openat};
use rustix::io::Errno;
use silo_store::digest::Hasher;
use silo_store::removal::remove_tree;

use super::guest_paths::{MEMORY, STATE};
use super::vm_spec::{self, Processor, Start};
use crate::spec::{Spec, VmFiles};

/// Largest state of a VM without its memory; QEMU writes some hundred kilobytes.
pub(super) const MAX_STATE_BYTES: u64 = 64 << 20;

/// The location of the snapshot for a launch, whether it exists or not.
#[derive(Debug)]
pub struct Place {
    pub(super) parent: PathBuf,
    pub(super) name: String,
}

impl Place {
    /// Returns the location; `None` if snapshots are not enabled.
    pub fn of(spec: &Spec, machine: &VmFiles, processor: Processor) -> Option<Place> {
        let parent = machine.snapshots.clone()?;
        let made = vm_spec::make(spec, machine, processor, Start::Restored { dir: PathBuf::new() });
        let mut hasher = Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        made.outer.argv.iter().chain(&machine.warm_up).for_each(|word| put(word.as_bytes()));
        for path in [Some(&machine.root), Some(&machine.kernel), Some(&machine.initial), machine.disk.as_ref()].into_iter().flatten() {
            put(path.as_os_str().as_bytes());
        }
        if processor == Processor::Kvm {
            // The guest uses the host processor's instructions.
            let text = fs::read_to_string("/proc/cpuinfo").ok()?;
            text.lines()
                .filter(|line| line.starts_with("model name") || line.starts_with("flags"))
                .take(2)
                .for_each(|line| put(line.as_bytes()));
        }
        Some(Place { parent, name: hasher.finish().to_string() })
    }

    /// Returns the snapshot's directory.
    pub fn dir(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// Returns the directory of an existing snapshot, and updates its time of use. Removes an invalid snapshot.
    pub fn find(&self, memory_bytes: u64) -> Option<PathBuf> {
        let dir = self.dir();
        match whole(&dir, memory_bytes) {
            Ok(state) => {
                let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
                // Failing to update the time of use does not matter.
                let _ = rustix::fs::futimens(&state, &Timestamps { last_access: omit, last_modification: now });
                Some(dir)
            }
            // No snapshot exists.
            Err(error) if error.kind() == ErrorKind::NotFound && !dir.exists() => None,
            Err(error) if error.kind() == ErrorKind::InvalidData || error.kind() == ErrorKind::NotFound => {
                self.remove();
                None
            }
            // Out of file descriptors, or a similar problem of the host.
            Err(_) => None,
        }
    }

    /// Removes an invalid snapshot.
    pub fn remove(&self) {
        // A VM that has its files open is not affected.
        let _ = remove_tree(&self.dir());
    }
}

/// Opens the files of a snapshot and checks their type and size; returns the state file.
pub(super) fn whole(dir: &Path, memory_bytes: u64) -> io::Result<File> {
    let place = open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let place = place.map_err(|error| if error == Errno::NOTDIR || error == Errno::LOOP { odd(dir) } else { error.into() })?;
    let memory = regular(place.as_fd(), MEMORY)?;
    let state = regular(place.as_fd(), STATE)?;
    let fits = memory.metadata()?.len() == memory_bytes && (1..=MAX_STATE_BYTES).contains(&state.metadata()?.len());
    if fits { Ok(state) } else { Err(odd(dir)) }
}

/// Opens a file of a snapshot without following a symlink and without blocking on a pipe.
pub(super) fn regular(dir: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(dir, name, flags, Mode::empty()) {
        // A symlink, or a socket.
        Err(Errno::LOOP | Errno::NXIO) => return Err(odd(Path::new(name))),
        opened => File::from(opened?),
    };
    let data = file.metadata()?;
    let is_ours = data.is_file() && data.nlink() == 1 && data.uid() == rustix::process::geteuid().as_raw();
    if is_ours { Ok(file) } else { Err(odd(Path::new(name))) }
}

fn odd(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{} is not a valid file of a snapshot", path.display()))
}
