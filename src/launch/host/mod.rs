//! The host side of a launch that all tiers and systems share: the caller's streams and terminal, status lines during a run, and the broker
//! for the sandbox's network.
//!
//! `linux` and `macos` implement the system-specific parts under the same names; this module selects one as `system`.

// Some items are used only by the native tier.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod insistence;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
pub mod system;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
pub mod system;

mod channel;
pub mod exit;
pub mod no_wait;
mod serving;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod streams;

pub mod notices;

pub mod outlet;
pub mod terminal;

pub mod job;
