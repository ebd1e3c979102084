//! A whole conversation with a VM: any frames in every phase use bounded memory and end.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    checks::conversation(script);
});
