//! Work in a user namespace with a range of ids, without a sandbox: for files of steps that were killed, and for `silo doctor`.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::id_map::Range;
use super::init_messages::{self, Order, Report};
use super::owners;
use crate::failure::{Cause, Failure, StepContext};
use crate::kernel::sys;
use silo_wire::frame::StageFailure;

/// Gives all files of a directory to the caller.
pub fn reclaim(tree: &Path) -> Result<(), Failure> {
    let range = Range::find().map_err(|lack| failure(lack.to_string()))?;
    let tree = open(tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .during_this(|| format!("opening {}", tree.display()))?;
    work(&range, &|| owners::reclaim(tree.as_fd()))
}

/// Calls a function in a child process that is root of a new user namespace with this range, and returns the result.
pub fn work(range: &Range, act: &dyn Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during("making a socket pair")?;
    let Some(child) = sys::clone(libc::CLONE_NEWUSER as u64, None).during("making a user namespace")? else {
        let done = match init_messages::next_order(theirs.as_fd()) {
            Ok(Some(Order::Mapped(true))) => act(),
            _ => Err(failure("the system refused the range of ids".to_owned())),
        };
        // A missing report counts as a failure.
        let _ = init_messages::report(theirs.as_fd(), &done.map_or_else(Report::Failed, |()| Report::Exited(0)));
        sys::exit(0)
    };
    drop(theirs);
    // If the child is gone, no report arrives.
    let _ = init_messages::order(ours.as_fd(), Order::Mapped(range.map(child.pid, uid, gid)));
    let report = init_messages::next_report(ours.as_fd());
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    match report {
        Ok(Some(Report::Exited(0))) => Ok(()),
        Ok(Some(Report::Failed(failure))) => Err(failure),
        Ok(_) | Err(_) => Err(failure("the process with the ids died".to_owned())),
    }
}

fn failure(words: String) -> Failure {
    Failure { stage: StageFailure::Setup, step: "mapping ids".to_owned(), cause: Cause::Words(words) }
}
