//! Selects the tier for a launch: under this system's own kernel, or in a VM.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

use silo_base::system::Arch;

use crate::check::Check;
use crate::error::Error;
use crate::host;
use crate::host::exit::Exit;
#[cfg(target_os = "linux")]
use crate::kernel::threads::require_one_thread;
#[cfg(target_os = "linux")]
use crate::native;
use crate::phase::Phase;
use crate::spec::Spec;
use crate::vm;

/// Returns the last output that the program printed to its sandbox's own terminal.
pub fn printed() -> Vec<u8> {
    host::deferred_stderr::heard()
}

/// Runs the spec's program in a new sandbox and waits until all of the sandbox is gone.
///
/// The calling process must have one thread; see the module's documentation.
pub fn launch(spec: &Spec) -> Result<Exit, Error> {
    let exit = launch_noting(spec, None, &mut |_| {});
    reap();
    exit
}

/// Waits until the kernel has freed the first process of each sandbox that [`launch_noting`] started. No other process is left, so a caller
/// can do other work first.
#[cfg(target_os = "linux")]
pub fn reap() {
    host::system::reap();
}

/// This system's VMs are gone when [`launch`] returns.
#[cfg(target_os = "macos")]
pub fn reap() {}

/// True if programs can run without a VM, under this system's own kernel.
pub const HAS_NATIVE: bool = cfg!(target_os = "linux");

/// True if build steps have real owners without a VM: the system gives the caller a range of ids.
#[cfg(target_os = "linux")]
pub fn has_range() -> bool {
    native::has_range()
}

/// True: this system has only VMs.
#[cfg(target_os = "macos")]
pub fn has_range() -> bool {
    true
}

/// Returns the reason if the processor cannot run VMs with hardware virtualisation. Like [`launch`], it needs a process with one thread.
#[cfg(target_os = "linux")]
pub fn runs_guests() -> Result<(), &'static str> {
    vm::runs_guests()
}

/// Apple's framework always uses hardware virtualisation.
#[cfg(target_os = "macos")]
pub fn runs_guests() -> Result<(), &'static str> {
    Ok(())
}

/// Like [`launch`], and reports each phase to `noted`. `output` is the reading end of a pipe: its first bytes are the phase
/// [`Phase::Printed`]. Call [`reap`] before the calling process ends. From the phases `Printed` and `Lasting` on, the calling process may have more threads.
#[cfg(target_os = "linux")]
pub fn launch_noting(spec: &Spec, output: Option<OwnedFd>, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    spec.check()?;
    require_one_thread()?;
    match &spec.machine {
        None => native::launch(spec, output, noted),
        Some(machine) => vm::launch(spec, machine, noted),
    }
}

/// Like [`launch`], and reports each phase to `noted`. This system has only VMs; nothing is forked, so threads are allowed, and the phase
/// `Printed` does not depend on the pipe.
#[cfg(target_os = "macos")]
pub fn launch_noting(spec: &Spec, _output: Option<OwnedFd>, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    spec.check()?;
    vm::launch(spec, spec.machine.as_ref().ok_or(Error::NoTier)?, noted)
}

/// Returns the cache key of the initramfs of an architecture for this silo binary.
pub fn initial_name(program: &Path, arch: Arch) -> Result<String, Error> {
    vm::first_process(program, arch).and_then(|program| vm::initramfs::name(&program))
}

/// Makes the initramfs; `root` is the root of the image with the kernel's modules.
pub fn initial(program: &Path, root: &Path, arch: Arch) -> Result<Vec<u8>, Error> {
    vm::initramfs::make(root, &vm::first_process(program, arch)?)
}

/// Packs the changes of a step, or the files that it starts with.
pub fn pack_changes(dir: &Path, out: impl std::io::Write) -> std::io::Result<()> {
    vm::pack_changes(dir, out)
}

/// Removes all files of a directory, before changes are unpacked into it.
pub fn clear_changes(dir: &Path) -> std::io::Result<()> {
    vm::clear_changes(dir)
}

/// Unpacks the archive of a step's changes from a VM into a directory. The archive is not trusted.
pub fn unpack_changes(from: &mut dyn std::io::Read, dir: &Path) -> std::io::Result<()> {
    vm::unpack_changes(from, dir)
}

/// True if a launch had to boot its VM because no snapshot was usable.
#[cfg(target_os = "linux")]
pub fn wants_snapshot(spec: &Spec) -> bool {
    spec.machine.as_ref().is_some_and(|machine| vm::snapshot::is_wanted(spec, machine))
}

/// Takes the snapshot for launches like this one. Like [`launch`], it needs a process with one thread.
#[cfg(target_os = "linux")]
pub fn take_snapshot(spec: &Spec) -> Result<(), Error> {
    spec.check()?;
    require_one_thread()?;
    spec.machine.as_ref().map_or(Ok(()), |machine| vm::snapshot::take(spec, machine))
}

/// Runs a program of the host that sees a project with the changes in an upper directory, read-only. Without a program, calls `ready` with
/// the id of a process that sees them, and waits. Like [`launch`], it needs a process with one thread.
#[cfg(target_os = "linux")]
pub fn in_merged_view(project: &Path, upper: &Path, argv: &[OsString], ready: &dyn Fn(i32)) -> Result<Exit, Error> {
    require_one_thread()?;
    native::merged_view::run(project, upper, argv, ready)
}

/// Fails: this system has no overlays.
#[cfg(target_os = "macos")]
pub fn in_merged_view(_: &Path, _: &Path, _: &[OsString], _: &dyn Fn(i32)) -> Result<Exit, Error> {
    Err(Error::NoTier)
}

/// Gives the files of a killed build step to the caller. Like [`launch`], it needs a process with one thread.
#[cfg(target_os = "linux")]
pub fn reclaim(tree: &Path) -> Result<(), Error> {
    require_one_thread()?;
    native::userns::reclaim(tree).map_err(crate::failure::failed)
}

/// Does nothing: this system has only VMs, whose files belong to the caller.
#[cfg(target_os = "macos")]
pub fn reclaim(_tree: &Path) -> Result<(), Error> {
    Ok(())
}

/// True if this process is the first process of a VM; the kernel starts it under this name.
#[cfg(target_os = "linux")]
pub fn is_guest(argv0: &std::ffi::OsStr) -> bool {
    vm::guest_init::is_first(argv0)
}

/// Runs as the first process of a VM.
#[cfg(target_os = "linux")]
pub fn guest() -> ! {
    vm::guest_init::main()
}

/// Tests every feature that this system's tiers need; `silo doctor` shows the result.
///
/// `store` is the existing directory of the images. Like [`launch`], it needs a process with one thread.
#[cfg(target_os = "linux")]
pub fn probe(store: &Path) -> Vec<Check> {
    let mut checks = native::probe::probe(store);
    checks.push(vm::probe());
    checks
}

/// Returns false: this system has no snapshots.
#[cfg(target_os = "macos")]
pub fn wants_snapshot(_spec: &Spec) -> bool {
    false
}

/// Fails: this system has no snapshots.
#[cfg(target_os = "macos")]
pub fn take_snapshot(_spec: &Spec) -> Result<(), Error> {
    Err(Error::NoTier)
}

/// Returns false: a program for another system is never the first process of a VM.
#[cfg(target_os = "macos")]
pub fn is_guest(_argv0: &std::ffi::OsStr) -> bool {
    false
}

/// Never called: a program for another system is never the first process of a VM.
#[cfg(target_os = "macos")]
pub fn guest() -> ! {
    std::process::abort()
}

/// Tests every feature that this system's tiers need; `silo doctor` shows the result.
///
/// `store` is the existing directory of the images.
#[cfg(target_os = "macos")]
pub fn probe(store: &Path) -> Vec<Check> {
    vec![vm::probe(), host::system::probe_names(store)]
}
