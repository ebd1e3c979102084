//! The inputs of a build and a list of tags, as a hostile cache sends them.
#![no_main]

#[path = "../documents.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod documents;

libfuzzer_sys::fuzz_target!(|data: &[u8]| documents::inputs(data));
