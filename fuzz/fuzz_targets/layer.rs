//! The bytes of an image's layer: unpacked into a stage or refused, and nothing is left either way.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use silo_fetch::unpack::layer::{self, Source};
use silo_store::digest::Digest;
use silo_store::layout::Store;
use tempfile::TempDir;

fuzz_target!(|bytes: &[u8]| {
    static STORE: OnceLock<(TempDir, Store)> = OnceLock::new();
    let (_, store) = STORE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path()).expect("a store");
        (dir, store)
    });
    let mut stage = store.stage_difference().expect("a stage");
    let digest = Digest::of(bytes);
    drop(layer::unpack(Source { layer: digest, size: bytes.len() as u64, diff_id: digest }, bytes, None, &mut stage));
    drop(stage);
    assert_eq!(std::fs::read_dir(store.root().join("stage")).expect("the store's directory").count(), 0);
});
