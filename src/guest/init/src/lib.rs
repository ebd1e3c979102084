//! What Silo runs inside a sandbox besides the program: the agent of its network.
//!
//! Linux alone: a guest is one whatever the host is.
#![cfg(target_os = "linux")]

mod sys;

pub mod agent;
