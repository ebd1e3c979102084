//! The head of a plain HTTP request on its way to the machine's proxy, as a hostile guest writes it.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::request(data));
