//! Manifests and indexes of a hostile registry.
#![no_main]

#[path = "../documents.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod documents;

libfuzzer_sys::fuzz_target!(|data: &[u8]| documents::document(data));
