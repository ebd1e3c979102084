//! The host side of a launch that all tiers and systems share: the caller's streams and terminal, status lines during a run, and the broker
//! for the sandbox's network.
//!
//! `linux` and `macos` implement the system-specific parts under the same names; this module selects one as `system`.

// Some items are used only by the native tier.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod signal_escalation;

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
pub mod system;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
pub mod system;

mod broker_session;
mod channel;
pub mod clock;
pub mod exit;
pub mod nonblocking;
pub mod source;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod stdio;

pub mod deferred_stderr;
mod recording;
mod secrets;

pub mod network;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod run_limits;
pub mod terminal;

pub mod job_control;

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod event_loop;
