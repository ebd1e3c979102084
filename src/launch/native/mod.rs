//! The native tier: a sandbox from Linux namespaces, an overlay, Landlock and seccomp.
//!
//! Two processes of silo take part. The *host side* (this file, `supervise`, `terminal`) stays outside, forwards signals and copies a
//! terminal's bytes. *PID 1* (`init` and its modules) is created by one `clone3` with all namespaces, builds the view from nothing, and
//! starts the program. Needs Linux 5.12 (`mount_setattr`; overlays in user namespaces exist since 5.11).

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
mod removable;
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

/// All new namespaces except the time namespace (a sandbox uses the host's clock).
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

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

/// Fails if this process has more than one thread: a fork of it would not be safe.
pub fn require_one_thread() -> Result<(), Error> {
    // The directory's link count is 2 plus one for each subdirectory, and so for each thread.
    let wanted = StatxFlags::NLINK;
    let tasks = statx(CWD, "/proc/self/task", AtFlags::empty(), wanted);
    match u64::from(host(tasks, "counting threads")?.stx_nlink).saturating_sub(2) {
        1 => Ok(()),
        count => Err(Error::Threads { count }),
    }
}
