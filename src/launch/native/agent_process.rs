//! The process of the network agent.
//!
//! In a run it starts with the first event on its sockets: most programs use no network, or end soon. In a build step it starts before the
//! program, because the ids of a step's processes must not depend on the time of a request.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::thread::set_name;
use silo_init::agent::Agent;

use super::identity;
use super::remount_guard::close_all_but;
use crate::failure::{Failure, StepContext};
use crate::kernel::seccomp_rules;
use crate::kernel::sys;
use crate::spec::{Abi, Identity};

/// Time limit for the agent's last requests after the program has ended. They take a fraction of a millisecond, unless remaining processes
/// flood the agent.
const LAST_WORDS: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The network agent of a sandbox.
pub enum NetworkAgent {
    /// It is started by the first event.
    Waiting {
        /// Its sockets.
        agent: Box<Agent>,
        /// Its channel to the broker.
        channel: OwnedFd,
    },
    /// It runs, with this socket that signals the program's end to it.
    Running(OwnedFd),
    /// It could not be started, so the sandbox has no network.
    Failed,
}

impl NetworkAgent {
    /// Returns the descriptors whose first event starts it.
    pub fn watched(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            NetworkAgent::Waiting { agent, channel } => vec![agent.events(), channel.as_fd()],
            NetworkAgent::Running(_) | NetworkAgent::Failed => Vec::new(),
        }
    }

    /// Starts it, unless it runs. Call [`identity::drop_capabilities_of_agent_starter`] afterwards, if this process kept them for it.
    pub fn start(&mut self) -> Result<(), Failure> {
        if let NetworkAgent::Waiting { agent, channel } = std::mem::replace(self, NetworkAgent::Failed) {
            *self = NetworkAgent::Running(start(*agent, &channel)?);
        }
        Ok(())
    }

    /// Signals the program's end to it, and waits for its last requests.
    pub fn end(&mut self) {
        let has_event = {
            let mut fds: Vec<PollFd<'_>> = self.watched().into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            !fds.is_empty() && poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
        };
        if has_event {
            // A request just before the end. Without the agent, nobody reports that it was refused.
            let _ = self.start();
        }
        if let NetworkAgent::Running(end) = self {
            // Fails if the agent is gone, which is fine.
            let _ = shutdown(&*end, Shutdown::Write);
            let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], Some(&LAST_WORDS));
        }
    }
}

/// Starts the process, with fewer privileges than PID 1 and none beyond the program's system calls. Returns the socket that signals the
/// program's end to it.
fn start(agent: Agent, channel: &OwnedFd) -> Result<OwnedFd, Failure> {
    let step = "starting the network agent";
    let (ours, end) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).during(step)?;
    if sys::fork().during(step)?.is_some() {
        return Ok(ours);
    }
    let serve = || -> Result<(), Failure> {
        set_name(c"silo-agent").during(step)?;
        // PID 1's terminal, streams and sockets would stay open otherwise.
        close_all_but(agent.descriptors().into_iter().chain([channel, &end])).during(step)?;
        identity::drop_capabilities_of_agent()?;
        // A build step's program may use no network. Nothing has been read yet, so the filter can wait, too.
        if !agent.is_needed(channel, end.as_fd()).during(step)? {
            return Ok(());
        }
        sys::filter(&seccomp_rules::filter(Identity::Caller, Abi::Native)).during(step)?;
        agent.serve(channel).during(step)
    };
    // Without its agent a sandbox has no network, and the program notices; there is no other receiver for the error.
    let _ = serve();
    // Before the kernel frees this process's memory: PID 1 waits for it.
    drop(end);
    sys::exit(0)
}
