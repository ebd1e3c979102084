//! The host's side of a launch, as far as all tiers and systems share it: the caller's streams and terminal, lines that are
//! told while a program runs, and the network that is served outside.
//!
//! What each system has its own way to do is in `linux` and `macos`, by the same names; this is where one is chosen.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
pub mod system;
#[cfg(target_os = "macos")]
#[path = "macos.rs"]
pub mod system;

// What of these sandboxes of namespaces use is not used elsewhere.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod failure;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod insistence;
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub mod streams;

mod channel;
pub mod no_wait;
pub mod notices;
mod serving;

pub mod outlet;
pub mod terminal;

pub mod job;
