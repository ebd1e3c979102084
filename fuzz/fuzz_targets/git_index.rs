//! git's index as a sandbox writes it: what is read is written in one way, and every path in it leads down.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::git_index(data));
