//! A tar made from a number, with some of its bytes changed: read as GNU tar and bsdtar read it, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../tars.rs"]
mod tars;

fuzz_target!(|bytes: &[u8]| {
    let Some((seed, changes)) = bytes.split_first_chunk() else { return };
    let mut made = tars::made(u64::from_le_bytes(*seed));
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % made.bytes.len();
        made.bytes[at] = change[2];
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    if let Err(difference) = tars::compare(&made.bytes, dir.path(), false) {
        panic!("{:#?}: {difference}", made.story);
    }
});
