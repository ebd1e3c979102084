//! The vm tier: a VM for each launch, with its own kernel, ended with its program.
//!
//! The VM is QEMU, from an image like any other, in a sandbox of the native tier (see [`vm_spec`] for its view). The VM's first process is
//! silo again ([`guest_init`]), which launches the program in a sandbox of the native tier *inside*. One port between the two carries frames
//! ([`mux`]). So the same code builds the same view for a program on both tiers. Two more barriers separate it from the host: the VM, and
//! the sandbox around QEMU.
//!
//! Only the VM's final report decides the result. QEMU's own end does not, in any form.
//!
//! This is Linux. On macOS the VM runs in Apple's framework (see [`vz_spec`] for its view; `vz` starts it), without a sandbox around it. The
//! guest, the port and the host side of it ([`supervise`]) are the same.

pub mod protocol;
#[cfg(target_os = "linux")]
mod qmp;
mod upper_archive;
// QEMU has more ways to end.
mod drain;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod unreported_end;
// Some items are used only by QEMU and the guest.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod guest_paths;
// Each system uses one of its two functions.
#[allow(dead_code)]
mod guest_binary;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod tty;

pub mod initramfs;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod mux;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod shared_dirs;

mod link;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod vm_spec;

// Data that is tested also on systems without Apple's framework.
#[cfg(target_os = "linux")]
pub mod guest_init;
#[cfg(target_os = "linux")]
mod kvm;
#[cfg(target_os = "linux")]
mod snapshot_key;
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod vz_spec;

#[cfg(target_os = "macos")]
mod vz_bindings;

#[cfg(target_os = "linux")]
#[path = "qemu.rs"]
mod running;
#[cfg(target_os = "macos")]
#[path = "vz.rs"]
mod running;

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod supervise;

#[cfg(target_os = "linux")]
mod start;
#[cfg(target_os = "macos")]
#[path = "vz_start.rs"]
mod start;
mod wire_streams;

#[cfg(target_os = "linux")]
pub mod snapshot;

use super::error::Error;
use super::host::deferred_stderr::DeferredStderr;
use super::host::event_loop::Surroundings;
use super::host::exit::Exit;
use super::host::network::SandboxNetwork;
use super::host::run_limits::RunLimits;
use super::host::stdio;
use super::host::system::Signals;
use super::phase::Phase;
use super::spec::{Spec, Upper, VmFiles};
use supervise::StopEvent;

/// See [`crate::unpack_changes`].
pub use upper_archive::unpack as unpack_changes;
/// See [`crate::clear_changes`] and [`crate::pack_changes`].
pub use upper_archive::{clear as clear_changes, pack as pack_changes};

#[cfg(target_os = "linux")]
pub use guest_binary::of as first_process;
/// Finds the silo binary that is a VM's first process, with its libraries.
#[cfg(target_os = "macos")]
pub use guest_binary::of_framework as first_process;

#[cfg(target_os = "linux")]
pub use kvm::works as runs_guests;
use start::begin;
pub use start::probe;

/// See [`crate`].
pub fn launch(spec: &Spec, machine: &VmFiles, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    // From here on no signal is lost: one that arrives before the program starts is forwarded to it later.
    let signals = Signals::take_over()?;
    let streams = stdio::streams(&spec.stdio)?;
    let notices = DeferredStderr::new(&streams)?;
    let outlet = spec.network.as_ref().map(|network| SandboxNetwork::open(network, notices.clone())).transpose()?;
    let (mut watch, inside) = match begin(spec, machine, &signals) {
        Err(Error::Interrupted { signal }) => return Ok(Exit::Signal(signal)),
        begun => begun?,
    };
    noted(Phase::Ready);
    watch.around = Surroundings::new(outlet, RunLimits::of(spec));
    watch.around.take_terminal(&streams, notices, noted)?;
    let after = wire_streams::program(&mut watch, spec, inside, &streams)?;
    let outcome = watch.run(&signals, StopEvent::Ended, noted);
    noted(Phase::Ended);
    let exit = watch.close(outcome, &signals)?;
    // Unpacking takes a while; from here on a signal interrupts this process.
    drop(signals);
    if let (Some(after), Upper::Kept { upper, .. }) = (after, &spec.root.upper) {
        wire_streams::changed(after, upper)?;
    }
    Ok(exit)
}
