//! A running VM on macOS: Apple's Virtualization framework instead of QEMU, with the same guest and the same frames.
//!
//! The code in this file and in [`super::vz_bindings`] has never run on a Mac. The configuration ([`super::vz_spec`]), the guest and the
//! protocol on the port are tested on Linux.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::unreported_end::UnreportedEnd;
use super::vz_bindings::Virtual;
use super::vz_spec::{Configuration, Holds};
use crate::error::{Error, host};
use crate::spec::Access;

/// Longest message about a VM's end.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A VM in the framework; dropping it ends the VM.
pub struct Running {
    _machine: Virtual,
    saying: UnixStream,
    // After the VM in drop order: its shared files must outlive it.
    _stage: Stage,
}

impl Running {
    /// Takes ownership of a VM, the socket for the reason of its end, and its shared files.
    pub fn new(machine: Virtual, saying: UnixStream, stage: Stage) -> Running {
        Running { _machine: machine, saying, _stage: stage }
    }

    /// Returns the descriptor that is readable after the VM has ended by itself.
    pub fn saying(&self) -> BorrowedFd<'_> {
        self.saying.as_fd()
    }

    /// Reads the reason of the end, once it is available.
    pub fn poll_end(&self) -> Result<Option<UnreportedEnd>, Error> {
        let mut text = [0; MAX_MESSAGE_BYTES];
        let length = loop {
            match (&self.saying).read(&mut text) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The sender is gone.
                read => break read.unwrap_or(0),
            }
        };
        let how = if length == 0 { "ended by itself".to_owned() } else { String::from_utf8_lossy(&text[..length]).into_owned() };
        Ok(Some(UnreportedEnd::Ended(how)))
    }
}

/// A temporary directory for files that the framework needs by path; removed with the VM.
pub struct Stage {
    dir: TempDir,
    /// The directory of each shared file, in the order of the shares.
    pub files: Vec<PathBuf>,
}

impl Stage {
    /// Puts each shared file into a directory of its own.
    pub fn make(configuration: &Configuration) -> Result<Stage, Error> {
        let dir = host(tempfile::tempdir(), "creating a directory for the virtual machine")?;
        let mut stage = Stage { dir, files: Vec::new() };
        for share in &configuration.shares {
            if let Holds::File(path) = &share.holds {
                let own = stage.dir.path().join(stage.files.len().to_string());
                host(share_file(path, &own, share.access), &format!("sharing {}", path.display()))?;
                stage.files.push(own);
            }
        }
        Ok(stage)
    }
}

/// Puts a file into a directory of its own: as a hard link, or as a copy if it is read-only.
fn share_file(file: &Path, dir: &Path, access: Access) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    let name = dir.join(file.file_name().ok_or(ErrorKind::InvalidInput)?);
    match (fs::hard_link(file, &name), access) {
        // Hard links do not work across volumes.
        (Err(_), Access::ReadOnly) => fs::copy(file, &name).map(drop),
        (linked, _) => linked,
    }
}
