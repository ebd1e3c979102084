//! A pack as a sandbox writes it: verified or refused, and the new index finds each of its objects.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::git_pack(data));
