//! A pack as a sandbox writes it: verified whole or refused, and each of its objects is found by the index that is made of it.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::git_pack(data));
