//! The store from outside: one binary, one file a subject.
#![allow(clippy::disallowed_methods, reason = "tests read settings from the environment")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking, and prints the checks that it skips")]

mod capture;
mod commit;
mod compose;
mod erofs;
mod faults;
mod gc;
mod support;
