//! A step's changes from a VM, as a tar: unpacked into its directory or refused; nothing outside the directory changes.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let place = tempfile::tempdir().expect("a directory");
    let dir = place.path().join("changes");
    fs::create_dir(&dir).expect("made");
    fs::write(place.path().join("beside"), "safe").expect("written");
    let _ = silo_launch::unpack_changes(&mut &data[..], &dir);
    assert_eq!(fs::read(place.path().join("beside")).expect("there"), b"safe");
    assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 2);
});
