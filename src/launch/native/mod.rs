//! The native tier: a sandbox from Linux namespaces, an overlay, Landlock and seccomp.
//!
//! Two processes of silo take part. The *host side* (this file, `supervise`, `terminal`) stays outside, forwards signals and copies a
//! terminal's bytes. *PID 1* (`init` and its modules) is created by one `clone3` with all namespaces, builds the view from nothing, and
//! starts the program. Needs Linux 5.12 (`mount_setattr`; overlays in user namespaces exist since 5.11).

mod proc_files;

mod cgroup;
mod dir_watch;
mod exec;
mod id_map;
mod identity;
pub(super) mod init_messages;
mod mount_points;
mod mounts;
mod network_layout;
mod rlimits;
mod socketcall;

mod dev;
pub(super) mod host_facts;
mod syscall_path;

mod chown_emulation;
mod proc;
mod remount_guard;
pub(super) mod supervise;

mod agent_process;
mod owners;
mod vdso;

mod fixed_random;

mod clock_ahead;
mod fixed_clock;
mod sorted_dirs;

mod excluded_dirs;
pub(super) mod merged_view;
mod root;
mod step_calls;
pub(super) mod userns;

mod reviewed_renames;

pub mod probe;
mod set_id_dirs;

mod init;

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::host::deferred_stderr::DeferredStderr;
use super::host::event_loop::Surroundings;
use super::host::exit::Exit;
use super::host::network::SandboxNetwork;
use super::host::run_limits::RunLimits;
use super::host::stdio;
use super::host::system::Signals;
use super::kernel::namespaces::NAMESPACES;
use super::kernel::{step_filters, sys};
use super::phase::Phase;
use super::spec::{Identity, Spec, Upper};
use crate::error::{Error, host};
use host_facts::Plan;
use owners::Owners;

/// See [`crate`].
pub fn launch(spec: &Spec, output: Option<OwnedFd>, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    // From here on no signal is lost: one that arrives before the program starts is forwarded to it later.
    let signals = Signals::take_over()?;
    let plan = host_facts::make(spec, signals.before(), stdio::streams(&spec.stdio)?)?;
    let notices = DeferredStderr::new(&plan.streams)?;
    let outlet = spec.network.as_ref().map(|network| SandboxNetwork::open(network, notices.clone())).transpose()?;
    let mut around = Surroundings::new(outlet, RunLimits::of(spec));
    around.take_terminal(&plan.streams, notices, noted)?;
    let (sandbox, ours) = start(spec, &plan)?;
    // The end of an overlay's mount, of a cgroup and of a terminal is waited for: the next run needs the first two, and the last output is in
    // the third. The directories of a build step are used once.
    let is_step = spec.identity == Identity::Root;
    let keeps = !is_step && !matches!(spec.root.upper, Upper::Ephemeral { .. }) || !spec.overlays.is_empty() || plan.cgroup.is_some();
    let mut sandbox = if keeps || plan.streams.terminal.is_some() { sandbox } else { sandbox.leaving_first_process() };
    let outcome = supervise::watch((&mut sandbox, ours.as_fd()), &signals, (around, output), noted);
    // PID 1 exits at the end of the socket, if it still runs.
    drop(ours);
    outcome
}

/// True if the caller has a range of ids for build steps.
pub fn has_range() -> bool {
    id_map::Range::find().is_ok()
}

/// Starts a sandbox, and returns the socket to its PID 1.
pub fn start(spec: &Spec, plan: &Plan) -> Result<(supervise::Sandbox, OwnedFd), Error> {
    let (ours, theirs) = host(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None), "making a socket pair")?;
    let cgroup = plan.cgroup.as_ref().map(cgroup::Cgroup::directory);
    if spec.identity == Identity::Root {
        let owners = if plan.range.is_some() { Owners::Real } else { Owners::Recorded };
        // PID 1 inherits them.
        step_filters::of_step(&step_calls::additions(spec, owners), spec.abi);
        step_filters::of_first_process();
    }
    let made = host(sys::clone(NAMESPACES, cgroup), "making a sandbox's namespaces")?;
    let Some(child) = made else { init::main(spec, plan, &theirs) };
    if let Some(range) = &plan.range {
        let mapped = init_messages::Order::Mapped(range.map(child.pid, plan.uid, plan.gid));
        // If the sandbox is gone already, its report or the end of the socket says so.
        let _ = init_messages::order(ours.as_fd(), mapped);
    }
    Ok((supervise::Sandbox::new(child), ours))
}
