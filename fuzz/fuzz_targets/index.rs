//! The text of a layer's index: each parsed index has exactly one encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_store::index::Index;

fuzz_target!(|text: &[u8]| {
    if let Ok(index) = Index::parse(text) {
        assert_eq!(index.to_text(), text);
    }
});
