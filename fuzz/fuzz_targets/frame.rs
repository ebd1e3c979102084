//! Frames of a VM's port: parsed completely, incomplete, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_wire::frame::Frame;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some((frame, length))) = Frame::read(rest) {
        let mut written = Vec::new();
        frame.write(&mut written);
        assert_eq!(written, rest[..length]);
        rest = &rest[length..];
    }
});
