//! Starts a VM on macOS, with Apple's Virtualization framework. This code has never run on a Mac.

use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::SocketType;
use silo_base::system::Arch;

use super::guest_binary;
use super::mux::Mux;
use super::protocol::{Side, TimeLimits};
use super::running::{Running, Stage};
use super::supervise::{AfterReport, StopEvent, Supervisor};
use super::vm_spec::GuestJob;
use super::vz_bindings::{self, Ends, Virtual};
use super::vz_spec::{self, Configuration};
use crate::check::{Check, State};
use crate::error::{Error, host};
use crate::host::system::{self, Signals};
use crate::spec::{Spec, VmFiles};

/// Starts a VM with the framework.
pub fn begin<'a>(spec: &Spec, machine: &VmFiles, signals: &Signals) -> Result<(Supervisor<'a>, GuestJob), Error> {
    let (configuration, inside) = vz_spec::make(spec, machine);
    boot(&configuration, &machine.initial, signals).map(|watch| (watch, inside))
}

/// Starts a VM and waits for its hello.
fn boot<'a>(configuration: &Configuration, initial: &Path, signals: &Signals) -> Result<Supervisor<'a>, Error> {
    let step = "connecting to the virtual machine";
    let stage = Stage::make(configuration)?;
    let (ours, port) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&ours, true), step)?;
    let (log, console) = host(system::pair(SocketType::STREAM), step)?;
    host(rustix::io::ioctl_fionbio(&log, true), step)?;
    let (saying, told) = host(UnixStream::pair(), step)?;
    let started = Virtual::start(configuration, initial, &stage.files, Ends { port, console, told });
    let machine = started.map_err(|refusal| Error::Machine { what: format!("did not start: {refusal}") })?;
    let running = Running::new(machine, saying, stage);
    let mut watch = Supervisor::new(running, log, Mux::new(ours, Side::Host), TimeLimits::BOOTED.on(Arch::host()), AfterReport::Ends);
    watch.run(signals, StopEvent::Heard, &mut |_| {})?;
    Ok(watch)
}

/// Reports the virtualisation that the vm tier uses here.
pub fn probe() -> Check {
    let name = "virtual machines";
    let check = |state, detail: &str, cure: String| Check { name, state, detail: detail.to_owned(), cure };
    if !vz_bindings::is_supported() {
        return check(State::Missing, "the Virtualization framework does not run virtual machines here", String::new());
    }
    match system::this_program().and_then(|this| guest_binary::of_framework(&this, Arch::host())) {
        Ok(_) => check(State::Degraded, "the Virtualization framework is available, but Silo has never been tested with it", String::new()),
        Err(error) => check(State::Missing, &error.to_string(), "install a release".to_owned()),
    }
}
