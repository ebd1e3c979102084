//! A program of the host that sees a project as a sandbox in review mode sees it: the project with the changes of its layer.
//!
//! The view is in a mount namespace of its own. It is an overlay of two lower directories without an upper one, so it is read-only, and a
//! sandbox may use the layer at the same time. Nothing in it can be executed directly; a program that reads configuration obeys it, though.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::{Errno, read};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, waitid};

use super::identity;
use super::init_messages::{self, Report};
use super::mounts::HARMLESS;
use crate::error::Error;
use crate::failure::{Failure, StepContext, failed};
use crate::host::exit::Exit;
use crate::kernel::sys;
use crate::spec::Identity;

/// The namespaces of the view.
const VIEW: u64 = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;

/// Runs a program that sees the view in place of the project. Without a program, calls `ready` with the id of a process that sees it, and
/// waits until this process is ended.
pub fn run(project: &Path, upper: &Path, argv: &[OsString], ready: &dyn Fn(i32)) -> Result<Exit, Error> {
    // In the new namespace these ids would be unmapped.
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.during("making a socket pair").map_err(failed)?;
    // Ctrl-C is for the program.
    let signals = if argv.is_empty() { None } else { Some(&[libc::SIGINT, libc::SIGQUIT][..]) };
    let before = signals.map(sys::block_signals).transpose().during("blocking signals").map_err(failed)?;
    let cloned = sys::clone(VIEW, None).during("making a user namespace").map_err(failed)?;
    let Some(child) = cloned else {
        drop(ours);
        if let Some((_, before)) = &before {
            // They were blocked by the same call, so they can be unblocked.
            let _ = sys::set_blocked_signals(before);
        }
        if let Err(failure) = enter(project, upper, ids).and_then(|()| serve(&theirs, argv)) {
            // A missing report counts as a failure.
            let _ = init_messages::report(theirs.as_fd(), &Report::Failed(failure));
        }
        sys::exit(0)
    };
    drop(theirs);
    // A started program closes the socket.
    match init_messages::next_report(ours.as_fd()) {
        Ok(Some(Report::Failed(failure))) => return Err(of_host(failed(failure))),
        Ok(Some(_)) => ready(child.pid),
        Ok(None) | Err(_) => {}
    }
    loop {
        match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Ok(Some(end)) => {
                let code = end.exit_status().map(|code| Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)));
                return Ok(code.or_else(|| end.terminating_signal().map(Exit::Signal)).unwrap_or(Exit::Code(0)));
            }
            _ => return Ok(Exit::Code(0)),
        }
    }
}

/// Mounts the view over the project in this namespace, and gives up all privileges in it.
fn enter(project: &Path, upper: &Path, (uid, gid): (u32, u32)) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::TERM)).during("binding the view to silo")?;
    identity::map((uid, gid), uid, gid)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).during("making mounts private")?;
    let dir = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open(path, flags, Mode::empty()).during_this(|| format!("opening {}", path.display()))
    };
    let lower = [dir(upper)?, dir(project)?];
    let step = || format!("mounting the changes over {}", project.display());
    let here = rustix::process::getcwd(Vec::new()).during("finding the working directory")?;
    let view = overlay(&lower).during_this(step)?;
    move_mount(&view, "", CWD, project, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).during_this(step)?;
    // The same path, in the view. It may exist in the layer only.
    rustix::process::chdir(here.as_c_str()).or_else(|_| rustix::process::chdir(project)).during("entering the project")?;
    identity::drop_capabilities(Identity::Caller)
}

fn overlay(lower: &[OwnedFd; 2]) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::process::chdir("/proc/self/fd")?;
    fsconfig_set_flag(&context, "userxattr")?;
    let names: Vec<String> = lower.iter().map(|dir| dir.as_raw_fd().to_string()).collect();
    fsconfig_set_string(&context, "lowerdir", names.join(":"))?;
    fsconfig_create(&context)?;
    let flags = HARMLESS | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Becomes the program, or waits for the end of silo.
fn serve(theirs: &OwnedFd, argv: &[OsString]) -> Result<(), Failure> {
    let Some((program, arguments)) = argv.split_first() else {
        init_messages::report(theirs.as_fd(), &Report::Started).during("reporting")?;
        // Silo sends nothing: this ends with it.
        while read(theirs, &mut [0; 1]) == Err(Errno::INTR) {}
        return Ok(());
    };
    let error = Command::new(program).args(arguments).exec();
    Err(error).during_this(|| format!("starting {}", program.display()))
}

/// No sandbox is set up here.
fn of_host(error: Error) -> Error {
    match error {
        Error::Setup { step, source } => Error::Host { step, source },
        other => other,
    }
}
