//! Names of images and of repositories.
#![no_main]

#[path = "../documents.rs"]
#[allow(dead_code, reason = "one of them a target")]
mod documents;

libfuzzer_sys::fuzz_target!(|data: &[u8]| documents::reference(data));
