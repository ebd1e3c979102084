//! The native tier: a sandbox from Linux namespaces, an overlay, Landlock and seccomp.
//!
//! Two processes of silo take part. The *host side* (this file, `supervise`, `terminal`) stays outside, forwards signals and copies a
//! terminal's bytes. *PID 1* (`init` and its modules) is created by one `clone3` with all namespaces, builds the view from nothing, and
//! starts the program. Needs Linux 5.12 (`mount_setattr`; overlays in user namespaces exist since 5.11).

mod cgroup;
mod changes;
mod identity;
mod layout;
mod limits;
mod mounts;
mod named;
mod program;
mod skeleton;
pub(super) mod wire;

mod device;
mod owner;
pub(super) mod plan;
mod proc;
mod reguard;
pub(super) mod supervise;

mod removable;
mod root;

mod modes;
pub mod probe;

mod init;

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::host::exit::Exit;
use super::host::notices::Notices;
use super::host::outlet::Outlet;
use super::host::streams;
use super::host::system::Signals;
use super::host::terminal::{Screen, Turn};
use super::kernel::namespaces::NAMESPACES;
use super::kernel::sys;
use super::phase::Phase;
use super::spec::Spec;
use crate::error::{Error, host};
use plan::Plan;

/// See [`crate`].
pub fn launch(spec: &Spec, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    // From here on no signal is lost: one that arrives before the program starts is forwarded to it later.
    let signals = Signals::take_over()?;
    let plan = plan::make(spec, signals.before(), streams::streams(&spec.stdio)?)?;
    let notices = Notices::new(&plan.streams)?;
    let outlet = spec.network.as_ref().map(|network| Outlet::open(network, notices.clone())).transpose()?;
    let mut screen = Screen::of(&plan.streams, notices)?;
    if let Some(screen) = screen.as_mut().filter(|screen| screen.turn() == Some(Turn::Came)) {
        // Before the program starts, so that its first output goes to a raw terminal.
        noted(Phase::Terminal);
        screen.take()?;
    }
    let (sandbox, ours) = start(spec, &plan)?;
    let outcome = supervise::watch(&sandbox, ours.as_fd(), &signals, screen, outlet, noted);
    // PID 1 exits at the end of the socket, if it still runs.
    drop(ours);
    outcome
}

/// Starts a sandbox, and returns the socket to its PID 1.
pub fn start(spec: &Spec, plan: &Plan) -> Result<(supervise::Sandbox, OwnedFd), Error> {
    let (ours, theirs) = host(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None), "making a socket pair")?;
    let cgroup = plan.cgroup.as_ref().map(cgroup::Cgroup::directory);
    let made = host(sys::clone(NAMESPACES, cgroup), "making a sandbox's namespaces")?;
    let Some(child) = made else { init::main(spec, plan, &theirs) };
    Ok((supervise::Sandbox::new(child), ours))
}
