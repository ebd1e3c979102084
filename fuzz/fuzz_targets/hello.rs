//! What a TLS client says first.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = silo::broker::hello::read(data);
});
