//! The native tier: a sandbox out of Linux namespaces, an overlay, Landlock and seccomp.
//!
//! Two processes of silo take part. The *host side* (this file, `supervise`, `terminal`) stays
//! outside, forwards signals and carries a terminal's bytes. *PID 1* (`init` and what it calls) is
//! made by one `clone3` with all namespaces, builds the view from nothing, and starts the program.
//! Needs Linux 5.12 (idmapped attributes of mounts; overlays in user namespaces since 5.11).

mod broker_calls;
mod calls;
mod cgroup;
mod changes;
pub(super) mod confine;
mod device;
mod identity;
mod init;
mod layout;
mod limits;
mod modes;
mod named;
mod owner;
pub(super) mod plan;
pub mod probe;
mod proc;
mod program;
mod reguard;
mod root;
mod seccomp;
mod skeleton;
pub(super) mod supervise;
pub(super) mod sys;
pub(super) mod wire;

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::error::Error;
use super::host::notices::Notices;
use super::host::outlet::Outlet;
use super::host::streams::{self, host};
use super::host::system::Signals;
use super::host::terminal::{Screen, Turn};
use super::spec::Spec;
use super::{Exit, Phase};
use plan::Plan;

/// A new one of everything that has namespaces, but for time (a sandbox sees the host's clock).
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// See [`crate::launch::launch`].
pub fn launch(spec: &Spec, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    // From here on no signal is lost: what arrives before there is a program is forwarded to it.
    let signals = Signals::take_over()?;
    let plan = plan::make(spec, signals.before(), streams::streams(&spec.stdio)?)?;
    let notices = Notices::new(&plan.streams)?;
    let outlet = spec.network.as_ref().map(|network| Outlet::open(network, notices.clone())).transpose()?;
    let mut screen = Screen::of(&plan.streams, notices)?;
    if let Some(screen) = screen.as_mut().filter(|screen| screen.turn() == Some(Turn::Came)) {
        // Before the program starts: what it prints meets a terminal that is its own.
        noted(Phase::Terminal);
        screen.take()?;
    }
    let (sandbox, ours) = start(spec, &plan)?;
    let outcome = supervise::watch(&sandbox, ours.as_fd(), &signals, screen, outlet, noted);
    // The socket's end tells PID 1 to stop, if it has not.
    drop(ours);
    outcome
}

/// Starts a sandbox; the socket is the way to its PID 1.
pub fn start(spec: &Spec, plan: &Plan) -> Result<(supervise::Sandbox, OwnedFd), Error> {
    let (ours, theirs) = host(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None), "making a socket pair")?;
    let cgroup = plan.cgroup.as_ref().map(cgroup::Cgroup::directory);
    let made = host(sys::clone(NAMESPACES, cgroup), "making a sandbox's namespaces")?;
    let Some(child) = made else { init::main(spec, plan, &theirs) };
    Ok((supervise::Sandbox::new(child), ours))
}

/// Fails where this process has more than one thread, which must not be copied.
pub fn require_one_thread() -> Result<(), Error> {
    // A directory's link count is 2 and one for each subdirectory: one for each thread.
    let wanted = StatxFlags::NLINK;
    let tasks = statx(CWD, "/proc/self/task", AtFlags::empty(), wanted);
    match u64::from(host(tasks, "counting threads")?.stx_nlink).saturating_sub(2) {
        1 => Ok(()),
        count => Err(Error::Threads { count }),
    }
}
