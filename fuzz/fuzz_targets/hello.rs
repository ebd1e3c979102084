//! The first bytes of a TLS client.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::hello(data));
