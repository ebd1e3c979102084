//! Launching: one sandbox from one [`spec::Spec`], on the tier that this system has.
//!
//! There is exactly one way to start a process in Silo, whoever asks (`silo run`, a build step, a
//! language server): describe it as a [`spec::Spec`], hand it to [`launch`], get an [`Exit`].
//!
//! **`launch` must be called from a process with a single thread.** The sandbox's first process is
//! a copy of the caller that goes on running Rust code (it allocates); in a copy of a process with
//! threads, any lock that another thread held stays locked for ever. So whoever has threads (the
//! build scheduler) starts silo anew for each step and sends the spec as JSON; `launch` checks, and
//! refuses otherwise.

pub mod error;
pub mod spec;

// Of use where the numbers differ; its tests hold them where they are the same.
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod foreign;

mod host;

pub mod opened;

#[cfg(target_os = "linux")]
mod native;

mod vm;

pub mod again;

// For fuzzing: a guest's kernel is on its other side.
pub use vm::conversation;

use std::path::{Path, PathBuf};

use error::Error;
use spec::Spec;

/// Returns the last that a program printed to a terminal of its sandbox's own.
pub fn printed() -> Vec<u8> {
    host::notices::heard()
}

/// In the work directory of an overlay: the directory that says that the overlay could not be mounted.
pub const UNLAYERED: &str = "read-only";

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
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
    /// Ends this process as the program was ended, by its signal, so that a shell does what it does after the program. Returns
    /// where an exit code has to say it.
    pub fn end_by_signal(self) {
        if let Exit::Signal(signal) = self {
            host::system::end_by(signal);
        }
    }
}

/// One thing that the launcher needs, tried rather than looked up.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// How it went.
    pub state: State,
    /// What was found, as one plain sentence without a dot.
    pub detail: String,
    /// What the user can do about it; empty when there is nothing to do.
    pub cure: String,
}

/// The outcome of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// Sandboxes run, with one protection or limit less; `detail` says which.
    Degraded,
    /// No sandbox can run on this tier.
    Missing,
}

/// Runs the spec's program in a new sandbox and waits until nothing of the sandbox is left.
///
/// See the module's documentation: the calling process must have one thread.
pub fn launch(spec: &Spec) -> Result<Exit, Error> {
    launch_noting(spec, &mut |_| {})
}

/// A moment of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is a machine that waits for what it is to do, where the program gets one.
    Ready,
    /// The sandbox is there, and the program starts in it.
    Started,
    /// The program has run for a moment, or is about to run in a machine: time for work that a short run needs none of.
    Lasting,
    /// The program has ended.
    Ended,
    /// The caller's terminal is about to be taken over. It may come again.
    Terminal,
}

/// Whether programs can be run without a machine here: under this system's own kernel.
pub const HAS_NATIVE: bool = cfg!(target_os = "linux");

/// Says why the processor runs no guests by itself, if it does not. Like [`launch`], to be called from a process with one thread.
#[cfg(target_os = "linux")]
pub fn runs_guests() -> Result<(), &'static str> {
    vm::runs_guests()
}

/// Apple's framework has no other way.
#[cfg(target_os = "macos")]
pub fn runs_guests() -> Result<(), &'static str> {
    Ok(())
}

/// The same as [`launch`], telling `noted` what is reached.
#[cfg(target_os = "linux")]
pub fn launch_noting(spec: &Spec, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    spec.check()?;
    native::require_one_thread()?;
    match &spec.machine {
        None => native::launch(spec, noted),
        Some(machine) => vm::launch(spec, machine, noted),
    }
}

/// The same as [`launch`], telling `noted` what is reached. There are only machines here, and nothing is copied for them.
#[cfg(target_os = "macos")]
pub fn launch_noting(spec: &Spec, noted: &mut dyn FnMut(Phase)) -> Result<Exit, Error> {
    spec.check()?;
    vm::launch(spec, spec.machine.as_ref().ok_or(Error::NoTier)?, noted)
}

/// Returns the program that runs, whatever has its name meanwhile.
pub fn this_program() -> Result<PathBuf, Error> {
    let failed = |source| Error::Host { step: "finding this program's own file".to_owned(), source };
    // Behind whatever links lead to it.
    if HAS_NATIVE { Ok("/proc/self/exe".into()) } else { std::env::current_exe().and_then(std::fs::canonicalize).map_err(failed) }
}

/// Names the initial file system that virtual machines of this program of silo need.
pub fn initial_name(program: &Path) -> Result<String, Error> {
    vm::first_process(program).and_then(|program| vm::initial::name(&program))
}

/// Makes it; `root` is that of the image with the kernel's modules.
pub fn initial(program: &Path, root: &Path) -> Result<Vec<u8>, Error> {
    vm::initial::make(root, &vm::first_process(program)?)
}

/// Unpacks into a directory what a machine says that a step has changed, whoever wrote it.
pub fn unpack_changes(from: &mut dyn std::io::Read, dir: &Path) -> std::io::Result<()> {
    vm::unpack_changes(from, dir)
}

/// Whether a launch in a machine had to boot one, because there is no snapshot that it could have used.
#[cfg(target_os = "linux")]
pub fn wants_snapshot(spec: &Spec) -> bool {
    spec.machine.as_ref().is_some_and(|machine| vm::snapshot::is_wanted(spec, machine))
}

/// Takes the snapshot that launches like this one can use. Like [`launch`], to be called from a process with one thread.
#[cfg(target_os = "linux")]
pub fn take_snapshot(spec: &Spec) -> Result<(), Error> {
    spec.check()?;
    native::require_one_thread()?;
    spec.machine.as_ref().map_or(Ok(()), |machine| vm::snapshot::take(spec, machine))
}

/// Whether this process is the first one of a virtual machine, which the kernel started by this name.
#[cfg(target_os = "linux")]
pub fn is_guest(argv0: &std::ffi::OsStr) -> bool {
    vm::guest::is_first(argv0)
}

/// Does what the first process of a virtual machine does.
#[cfg(target_os = "linux")]
pub fn guest() -> ! {
    vm::guest::main()
}

/// Tries everything that the tiers of this system are made of; `silo doctor` shows the result.
///
/// `store` is the (existing) directory that holds the images. Like [`launch`], to be called from a
/// process with one thread.
#[cfg(target_os = "linux")]
pub fn probe(store: &Path) -> Vec<Check> {
    let mut checks = native::probe::probe(store);
    checks.push(vm::probe());
    checks
}

/// Says that this system keeps no snapshots.
#[cfg(target_os = "macos")]
pub fn wants_snapshot(_spec: &Spec) -> bool {
    false
}

/// Says that this system keeps no snapshots.
#[cfg(target_os = "macos")]
pub fn take_snapshot(_spec: &Spec) -> Result<(), Error> {
    Err(Error::NoTier)
}

/// A program for another system is never the first process of a machine.
#[cfg(target_os = "macos")]
pub fn is_guest(_argv0: &std::ffi::OsStr) -> bool {
    false
}

/// A program for another system is never the first process of a machine.
#[cfg(target_os = "macos")]
pub fn guest() -> ! {
    std::process::abort()
}

/// Tries everything that the tiers of this system are made of; `silo doctor` shows the result.
///
/// `store` is the (existing) directory that holds the images.
#[cfg(target_os = "macos")]
pub fn probe(store: &Path) -> Vec<Check> {
    vec![vm::probe(), host::system::probe_names(store)]
}
