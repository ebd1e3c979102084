//! Small types and functions that every package of Silo uses. None knows the others; each does one thing.
//!
//! Usable alone: [`grant`] parses and matches network grants (`*.example.com:443`), [`plain`] escapes text for a terminal.

pub mod amount;
pub mod event;
pub mod home;
pub mod moment;
pub mod plain;
pub mod system;
pub mod thread;

pub mod causes;
pub mod grant;
pub mod identity;
