//! A whole conversation with a virtual machine: whatever it says, in every phase, little is kept and it ends.
#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod checks;

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    checks::conversation(script);
});
