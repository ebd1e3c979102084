//! The helper that Silo runs inside a sandbox: the network agent.
//!
//! Linux only: a guest runs Linux on every host.
#![cfg(target_os = "linux")]

mod sys;

pub mod agent;
