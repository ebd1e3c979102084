//! Messages of a sandbox's agent: whatever arrives is read whole or not at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_wire::{Answer, Ask};

fuzz_target!(|data: &[u8]| {
    if let Some(ask) = Ask::from_bytes(data) {
        assert_eq!(ask.to_bytes(), data);
    }
    if let Some(answer) = Answer::from_bytes(data) {
        assert_eq!(answer.to_bytes(), data);
    }
});
