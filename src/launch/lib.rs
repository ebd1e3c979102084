//! Launches one sandbox from one [`spec::Spec`], on this system's tier.
//!
//! There is exactly one way to start a process in Silo, for `silo run`, a build step and a language server alike. Describe it as a
//! [`spec::Spec`], pass that to [`launch`], and get an [`Exit`].
//!
//! **`launch` must be called from a process with a single thread.** The sandbox's first process is a fork of the caller that goes on
//! running Rust code and allocates memory. In a fork of a multi-threaded process, a lock held by another thread stays locked for ever. So a
//! caller with threads (the build scheduler) re-executes silo for each step and sends the spec as JSON (see [`again`]). `launch` checks the
//! number of threads and refuses more than one.

pub mod error;
pub mod spec;

// Only macOS needs the tables; on Linux their tests check the numbers.
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod foreign;

pub mod broker;

mod host;

pub mod opened;

#[cfg(target_os = "linux")]
mod native;

mod vm;

pub mod again;

// Public for fuzzing: the peer is a guest's kernel, which is not trusted.
pub use vm::conversation;

use std::path::{Path, PathBuf};

use error::Error;
use spec::Spec;

/// Returns the last output that the program printed to its sandbox's own terminal.
pub fn printed() -> Vec<u8> {
    host::notices::heard()
}

/// Name of the marker directory in an overlay's work directory; it exists if the overlay could not be mounted.
pub const UNLAYERED: &str = "read-only";

/// The exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// It was killed by this signal.
    Signal(i32),
}

impl Exit {
    /// Returns the exit code that a shell would report: 128+n for a signal.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl Exit {
    /// Ends this process by the signal that ended the program, so that a shell reacts as if it had run the program itself. Returns if the
    /// program exited with a code, or if the signal does not end this process.
    pub fn end_by_signal(self) {
        if let Exit::Signal(signal) = self {
            host::system::end_by(signal);
        }
    }
}

/// The result of trying one thing that the launcher needs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// The name of the feature.
    pub name: &'static str,
    /// The outcome.
    pub state: State,
    /// The finding, as one plain sentence without a full stop.
    pub detail: String,
    /// The user's remedy; empty if none is needed.
    pub cure: String,
}

/// The outcome of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// Sandboxes run with one protection or limit less; `detail` names it.
    Degraded,
    /// No sandbox can run on this tier.
    Missing,
}

/// Runs the spec's program in a new sandbox and waits until all of the sandbox is gone.
///
/// The calling process must have one thread; see the module's documentation.
pub fn launch(spec: &Spec) -> Result<Exit, Error> {
    launch_noting(spec, &mut |_| {})
}

/// A phase of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A VM is ready and waits for its command; only for programs that run in a VM.
    Ready,
    /// The sandbox is set up, and the program starts in it.
    Started,
    /// The program has run for a moment, or is about to run in a VM: the time for work that a short run does not need.
    Lasting,
    /// The program has ended.
    Ended,
    /// The launcher is about to take over the caller's terminal. This may happen more than once.
    Terminal,
}

/// True if programs can run without a VM, under this system's own kernel.
pub const HAS_NATIVE: bool = cfg!(target_os = "linux");

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

/// Like [`launch`], and reports each phase to `noted`.
#[cfg(target_os = "linux")]
pub fn launch_noting(spec: &Spec, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    spec.check()?;
    native::require_one_thread()?;
    match &spec.machine {
        None => native::launch(spec, noted),
        Some(machine) => vm::launch(spec, machine, noted),
    }
}

/// Like [`launch`], and reports each phase to `noted`. This system has only VMs; nothing is forked, so threads are allowed.
#[cfg(target_os = "macos")]
pub fn launch_noting(spec: &Spec, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    spec.check()?;
    vm::launch(spec, spec.machine.as_ref().ok_or(Error::NoTier)?, noted)
}

/// Returns the path of the running program's file, even if the file was replaced.
pub fn this_program() -> Result<PathBuf, Error> {
    let failed = |source| Error::Host { step: "finding this program's own file".to_owned(), source };
    // On macOS, with symlinks resolved.
    if HAS_NATIVE { Ok("/proc/self/exe".into()) } else { std::env::current_exe().and_then(std::fs::canonicalize).map_err(failed) }
}

/// Returns the cache key of the initramfs for this silo binary.
pub fn initial_name(program: &Path) -> Result<String, Error> {
    vm::first_process(program).and_then(|program| vm::initial::name(&program))
}

/// Makes the initramfs; `root` is the root of the image with the kernel's modules.
pub fn initial(program: &Path, root: &Path) -> Result<Vec<u8>, Error> {
    vm::initial::make(root, &vm::first_process(program)?)
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
    native::require_one_thread()?;
    spec.machine.as_ref().map_or(Ok(()), |machine| vm::snapshot::take(spec, machine))
}

/// True if this process is the first process of a VM; the kernel starts it under this name.
#[cfg(target_os = "linux")]
pub fn is_guest(argv0: &std::ffi::OsStr) -> bool {
    vm::guest::is_first(argv0)
}

/// Runs as the first process of a VM.
#[cfg(target_os = "linux")]
pub fn guest() -> ! {
    vm::guest::main()
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
