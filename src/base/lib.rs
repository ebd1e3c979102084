//! Small types and functions that every package of Silo uses. None knows the others; each does one thing.
//!
//! Usable alone: [`grant`] parses and matches network grants (`*.example.com:443`), [`sanitize`] escapes text for a terminal.

pub mod event;
pub mod sanitize;
pub mod system;
pub mod thread;
pub mod timestamp;
pub mod units;

pub mod error_chain;
pub mod grant;
pub mod home;
pub mod identity;

pub mod secret;
