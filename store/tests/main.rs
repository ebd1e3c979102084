//! The store from outside: one binary, one file a subject.
#![allow(clippy::disallowed_methods, reason = "tests read the environment they are told things by")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking, and says aloud what it skips")]

mod capture;
mod commit;
mod compose;
mod erofs;
mod faults;
mod gc;
mod support;
