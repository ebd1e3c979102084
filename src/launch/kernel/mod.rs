//! A thin layer over the Linux kernel: system calls without a safe wrapper, filters of system calls, and confinement.

pub mod namespaces;
pub mod sys;
pub mod threads;

mod rule;

mod seccomp;

mod broker_calls;
pub mod calls;

pub mod confine;
