//! A signed index and its contents.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_resolve::keyring::Keyring;
use silo_resolve::{release, signature};

fuzz_target!(|bytes: &[u8]| {
    let keyring = Keyring::parse(include_bytes!("../../recipes/keyrings/debian.asc")).expect("the keyring that ships");
    // Without the archive's key no generated signature is valid.
    assert!(signature::verify(bytes, &keyring, 0).is_err());
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(release::parse(text));
    }
});
