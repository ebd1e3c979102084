//! A VM on macOS: Apple's Virtualization framework instead of QEMU, with the same guest and the same frames.
//!
//! The code in this file and in [`super::framework`] has never run on a Mac. The configuration ([`super::apple`]), the guest and the
//! protocol on the port are tested on Linux.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::SocketType;
use tempfile::TempDir;

use super::apple::{self, Configuration, Holds};
use super::conversation::{Patience, Side};
use super::framework::{self, Ends, Virtual};
use super::machine::Inside;
use super::mux::Mux;
use super::program;
use super::watch::{Afterwards, Gone, Until, Watch};
use crate::error::Error;
use crate::host::streams::host;
use crate::host::system::{self, Signals};
use crate::spec::{Access, Machine, Spec};
use crate::{Check, State};

/// Longest message about a VM's end.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Starts a VM with the framework.
pub fn begin<'a>(spec: &Spec, machine: &Machine, signals: &Signals) -> Result<(Watch<'a>, Inside), Error> {
    let (configuration, inside) = apple::make(spec, machine);
    boot(&configuration, &machine.initial, signals).map(|watch| (watch, inside))
}

/// Starts a VM and waits for its hello.
fn boot<'a>(configuration: &Configuration, initial: &Path, signals: &Signals) -> Result<Watch<'a>, Error> {
    let step = "connecting to the virtual machine";
    let stage = Stage::make(configuration)?;
    let (ours, port) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&ours, true), step)?;
    let (log, console) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&log, true), step)?;
    let (saying, told) = host(UnixStream::pair(), step)?;
    let started = Virtual::start(configuration, initial, &stage.files, Ends { port, console, told });
    let machine = started.map_err(|refusal| Error::Machine { what: format!("did not start: {refusal}") })?;
    let running = Running { _machine: machine, saying, _stage: stage };
    let mut watch = Watch::new(running, log, Mux::new(ours, Side::Host), Patience::BOOTED, Afterwards::Ends);
    watch.run(signals, Until::Heard, &mut |_| {})?;
    Ok(watch)
}

/// A VM in the framework; dropping it ends the VM.
pub struct Running {
    _machine: Virtual,
    saying: UnixStream,
    // After the VM in drop order: its shared files must outlive it.
    _stage: Stage,
}

impl Running {
    /// Returns the descriptor that is readable after the VM has ended by itself.
    pub fn saying(&self) -> BorrowedFd<'_> {
        self.saying.as_fd()
    }

    /// Reads the reason of the end, once it is available.
    pub fn look(&self) -> Result<Option<Gone>, Error> {
        let mut text = [0; MAX_MESSAGE_BYTES];
        let length = loop {
            match (&self.saying).read(&mut text) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The sender is gone.
                read => break read.unwrap_or(0),
            }
        };
        let how = if length == 0 { "ended by itself".to_owned() } else { String::from_utf8_lossy(&text[..length]).into_owned() };
        Ok(Some(Gone::Ended(how)))
    }
}

/// A temporary directory for files that the framework needs by path; removed with the VM.
struct Stage {
    dir: TempDir,
    /// The directory of each shared file, in the order of the shares.
    files: Vec<PathBuf>,
}

impl Stage {
    fn make(configuration: &Configuration) -> Result<Stage, Error> {
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

/// Reports the virtualisation that the vm tier uses here.
pub fn probe() -> Check {
    let name = "virtual machines";
    let check = |state, detail: &str, cure: String| Check { name, state, detail: detail.to_owned(), cure };
    if !framework::is_supported() {
        return check(State::Missing, "the Virtualization framework does not run virtual machines here", String::new());
    }
    match crate::this_program().and_then(|this| program::beside(&this)) {
        Ok(_) => check(State::Degraded, "the Virtualization framework is available, but Silo has never been tested with it", String::new()),
        Err(error) => check(State::Missing, &error.to_string(), "install a release".to_owned()),
    }
}
