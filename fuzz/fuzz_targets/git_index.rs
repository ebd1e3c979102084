//! git's index as a sandbox writes it: each index has one encoding, and no path in it leaves the directory.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::git_index(data));
