//! Tests the native tier's features by using them.
//!
//! Settings are not reliable: Ubuntu's restriction of user namespaces, for example, allows creating a namespace and then refuses every
//! operation in it. A setting only selects the text of a hint.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use rustix::thread::set_no_new_privs;

use super::id_map::{Lack, Range};
use super::init_messages::{self, Report};
use super::owners::Owners;
use super::{cgroup, identity, rlimits, root, userns};
use crate::check::{Check, State};
use crate::failure::{Cause, Failure, StepContext};
use crate::kernel::namespaces::NAMESPACES;
use crate::kernel::{seccomp_rules, sys};
use crate::spec::{Abi, Identity, Root, Spec, Upper};
use silo_wire::frame::StageFailure;

/// The oldest kernel with all system calls of the native tier (`mount_setattr` is the newest).
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// An attribute for a test write; nothing reads it.
const TRIED: &str = "user.silo.tried";

/// Runs all tests; `store` is the directory of the images.
pub fn probe(store: &Path) -> Vec<Check> {
    vec![
        kernel(),
        check("user namespaces", attempt(|| Ok(())), userns_cure()),
        check("overlay root", attempt(|| create_root(store)), userns_cure()),
        overlay_attributes(store),
        ids(),
        check("seccomp", attempt(filter), "use a kernel with CONFIG_SECCOMP_FILTER".to_owned()),
        landlock(),
        store_attributes(store),
        cgroups(),
    ]
}

fn kernel() -> Check {
    let (major, minor) = rlimits::kernel();
    let new = (major, minor) >= OLDEST_KERNEL;
    Check {
        name: "kernel",
        state: if new { State::Ok } else { State::Missing },
        detail: format!("Linux {major}.{minor}"),
        cure: if new { String::new() } else { "use Linux 5.12 or newer".to_owned() },
    }
}

fn check(name: &'static str, tried: Result<(), Failure>, cure: String) -> Check {
    match tried {
        Ok(()) => fine(name, "works".to_owned()),
        Err(failure) => {
            let detail = format!("{}: {}", failure.step, failure.cause);
            Check { name, state: State::Missing, detail, cure }
        }
    }
}

fn fine(name: &'static str, detail: String) -> Check {
    Check { name, state: State::Ok, detail, cure: String::new() }
}

fn degraded(name: &'static str, detail: &str, cure: &str) -> Check {
    let (detail, cure) = (detail.to_owned(), cure.to_owned());
    Check { name, state: State::Degraded, detail, cure }
}

/// Returns the hint for refused user namespaces, by the likely cause.
fn userns_cure() -> String {
    let is = |file: &str, value: &str| fs::read_to_string(Path::new("/proc/sys").join(file)).is_ok_and(|text| text.trim() == value);
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "give silo an AppArmor profile: put `abi <abi/4.0>, profile silo <path of silo> \
         flags=(unconfined) { userns, }` into /etc/apparmor.d/silo and run \
         `sudo apparmor_parser -r /etc/apparmor.d/silo`"
    } else if is("kernel/unprivileged_userns_clone", "0") {
        "run `sudo sysctl -w kernel.unprivileged_userns_clone=1`"
    } else if is("user/max_user_namespaces", "0") {
        "run `sudo sysctl -w user.max_user_namespaces=10000`"
    } else {
        "inside a container, run it with user namespaces and an unmasked /proc allowed; \
         otherwise use the vm tier"
    }
    .to_owned()
}

/// Creates a sandbox's root as a launch does.
fn create_root(store: &Path) -> Result<(), Failure> {
    root::enter(&spec(store), Owners::Recorded).map(drop)
}

/// Distinguishes a failed overlay from one without user attributes in memory.
fn overlay_attributes(store: &Path) -> Check {
    let name = "attributes in memory";
    let tried = attempt(|| {
        create_root(store)?;
        fs::write("/tmp/tried", "").during("writing a file")?;
        setxattr("/tmp/tried", TRIED, b"x", XattrFlags::empty()).during("setting an attribute")
    });
    match tried {
        Ok(()) => fine(name, "tmpfs keeps user attributes".to_owned()),
        Err(_) => degraded(
            name,
            "tmpfs keeps no user attributes, so a directory of the image cannot be created again after the program has removed it",
            "use Linux 6.6 or newer",
        ),
    }
}

/// Maps a range of ids as a build step does.
fn ids() -> Check {
    let name = "ids of build steps";
    let imitated = |why: String| format!("{why}, so build steps have one id: owners are imitated, and some packages cannot be installed");
    let range = match Range::find() {
        Ok(range) => range,
        Err(lack) => {
            let cure = match lack {
                Lack::Helpers => "install the package uidmap (Debian, Ubuntu) or shadow-utils, or build with the vm tier",
                Lack::Assigned(_) => "run `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 \"$USER\"`",
                Lack::Few => "start the container with 65536 ids, or build with the vm tier",
            };
            return degraded(name, &imitated(lack.to_string()), cure);
        }
    };
    match userns::work(&range, &|| Ok(())) {
        Ok(()) => fine(name, "65536, as Debian has".to_owned()),
        Err(failure) => degraded(name, &imitated(format!("{}: {}", failure.step, failure.cause)), "build with the vm tier"),
    }
}

fn filter() -> Result<(), Failure> {
    set_no_new_privs(true).during("giving up new privileges")?;
    let listener = sys::filter_with_listener(&seccomp_rules::filter(Identity::Root, Abi::Native));
    listener.map(drop).during("filtering system calls")
}

fn landlock() -> Check {
    let cure = "add landlock to the kernel's `lsm=` list, or use Linux 6.12 or newer";
    match sys::landlock_version() {
        Some(version) if version >= 6 => fine("landlock", format!("version {version}")),
        Some(version) => degraded("landlock", &format!("version {version} cannot scope signals; namespaces still do"), cure),
        None => degraded("landlock", "absent: the program can open a file redirected to its input for writing", cure),
    }
}

fn store_attributes(store: &Path) -> Check {
    let name = "attributes in the store";
    match setxattr(store, TRIED, b"x", XattrFlags::empty()) {
        Ok(()) => {
            // Ignored: a remaining attribute is harmless.
            let _ = rustix::fs::removexattr(store, TRIED);
            fine(name, format!("{} keeps user attributes", store.display()))
        }
        Err(error) => degraded(
            name,
            &format!("{}: {error}; owners of files cannot be recorded in build steps", store.display()),
            "keep the store on ext4, xfs or btrfs",
        ),
    }
}

fn cgroups() -> Check {
    match cgroup::delegated() {
        Some(path) => fine("limits", format!("cgroups below {} are delegated", path.display())),
        None => degraded(
            "limits",
            "no cgroup is delegated: memory is limited for each process, not for all together",
            "start silo in a user session of systemd, or with `systemd-run --user --scope`",
        ),
    }
}

/// Runs a test in a child process with all namespaces, and returns its result.
fn attempt(try_it: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    // In the new namespace these ids would be unmapped.
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).during("making a socket pair")?;
    let Some(child) = sys::clone(NAMESPACES, None).during("making namespaces")? else {
        let tried = identity::map((uid, gid), uid, gid).and_then(|()| try_it());
        let report = match tried {
            Ok(()) => Report::Exited(0),
            Err(failure) => Report::Failed(failure),
        };
        // A missing report counts as a failure.
        let _ = init_messages::report(theirs.as_fd(), &report);
        sys::exit(0)
    };
    drop(theirs);
    let report = init_messages::next_report(ours.as_fd());
    while let Err(Errno::INTR) = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {}
    match report {
        Ok(Some(Report::Exited(0))) => Ok(()),
        Ok(Some(Report::Failed(failure))) => Err(failure),
        Ok(_) | Err(_) => Err(Failure { stage: StageFailure::Setup, step: "testing it".to_owned(), cause: Cause::Number(libc::ECHILD) }),
    }
}

/// A spec with some directory as its root: the store itself.
fn spec(store: &Path) -> Spec {
    let root = Root { lower: vec![store.to_owned()], upper: Upper::Ephemeral { size_bytes: 1 << 20 } };
    Spec { identity: Identity::Caller, ..Spec::new(root, vec!["true".into()]) }
}
