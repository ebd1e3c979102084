//! Image documents: names, indexes, manifests and configurations, parsed or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_model::oci::{docker, manifest, reference};

fuzz_target!(|bytes: &[u8]| {
    drop(manifest::document(bytes));
    drop(manifest::configuration(bytes, silo_base::system::Arch::Amd64));
    if let Ok(images) = docker::list(bytes) {
        drop(docker::choose(&images, None));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(reference::parse(text));
    }
});
