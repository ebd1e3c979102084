//! A thin layer over the Linux kernel: system calls without a safe wrapper, filters of system calls, and confinement.

pub mod namespaces;
pub mod notice;

pub mod instruction;

pub mod sys;
pub mod threads;

mod seccomp_rule;

pub mod compat;

mod seccomp_code;

mod seccomp;

mod broker_seccomp_rules;
pub mod seccomp_rules;

pub mod step_filters;

pub mod confine_broker;
