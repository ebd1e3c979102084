//! A loose object as a sandbox writes it: accepted only if it matches its name.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::git_loose(data));
