//! The process of the network agent.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::thread::set_name;
use silo_init::agent::Agent;

use super::identity;
use crate::failure::{Failure, StepContext};
use crate::kernel::seccomp_rules;
use crate::kernel::sys;
use crate::spec::{Abi, Identity};

/// Starts the network agent, with fewer privileges than PID 1 and none beyond the program's system calls. Returns the socket that signals
/// the program's end to it.
pub fn start(agent: Agent, channel: &OwnedFd) -> Result<OwnedFd, Failure> {
    let step = "starting the network agent";
    let (ours, end) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).during(step)?;
    if sys::fork().during(step)?.is_some() {
        return Ok(ours);
    }
    drop(ours);
    let serve = || -> Result<(), Failure> {
        set_name(c"silo-agent").during(step)?;
        sys::close_range(0, 2).during(step)?;
        identity::drop_capabilities_of_agent()?;
        // Most programs use no network, or end soon. Nothing has been read yet, so the filter can wait, too.
        if !agent.is_needed(channel, end.as_fd()).during(step)? {
            return Ok(());
        }
        sys::filter(&seccomp_rules::filter(Identity::Caller, Abi::Native)).during(step)?;
        agent.serve(channel).during(step)
    };
    // Without its agent a sandbox has no network, and the program notices; there is no other receiver for the error.
    let _ = serve();
    sys::exit(0)
}
