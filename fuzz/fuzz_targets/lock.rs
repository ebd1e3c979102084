//! Lock text: a parsed lock is written so that it parses to the same lock.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use silo_model::lock;

fuzz_target!(|text: &str| {
    let path = Path::new("x.lock");
    if let Ok(parsed) = lock::parse(text, path) {
        let written = lock::write(&parsed);
        assert_eq!(lock::parse(&written, path).expect("what is written can be read"), parsed);
    }
});
