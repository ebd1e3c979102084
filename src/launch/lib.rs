//! Launches one sandbox from one [`spec::Spec`], on this system's tier.
//!
//! There is exactly one way to start a process in Silo, for `silo run`, a build step and a language server alike. Describe it as a
//! [`spec::Spec`], pass that to [`launch`], and get an [`Exit`].
//!
//! **`launch` must be called from a process with a single thread.** The sandbox's first process is a fork of the caller that goes on
//! running Rust code and allocates memory. In a fork of a multi-threaded process, a lock held by another thread stays locked for ever. So a
//! caller with threads (the build scheduler) re-executes silo for each step and sends the spec as JSON (see [`reexec`]). `launch` checks the
//! number of threads and refuses more than one.

pub mod check;
pub mod error;
// Only macOS needs the tables; on Linux their tests check the numbers.
#[cfg_attr(not(target_os = "macos"), allow(dead_code))]
mod linux_abi;
pub mod phase;

pub mod broker;
mod serialized_error;
// Some items are used only by the native tier.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
mod failure;

pub mod spec;

#[cfg(target_os = "linux")]
mod kernel;

mod host;

pub mod open_checked;

#[cfg(target_os = "linux")]
mod native;

mod vm;

mod tier;

pub mod reexec;

pub use check::{Check, State};
pub use host::exit::Exit;
pub use host::source::read as read_secret;
pub use host::system::this_program;
pub use phase::Phase;
pub use spec::UNLAYERED;
pub use tier::{
    HAS_NATIVE, clear_changes, guest, has_range, in_merged_view, initial, initial_name, is_guest, launch, launch_noting, pack_changes,
    printed, probe, reap, reclaim, runs_guests, take_snapshot, unpack_changes, wants_snapshot,
};
// Public for fuzzing: the peer is a guest's kernel, which is not trusted.
pub use vm::protocol;
