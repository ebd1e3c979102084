//! Archives of others are read as GNU tar and bsdtar read them, or refused.

use std::io::Write;

use crate::support::{has, is_root, skip};

#[path = "../fuzz/tars.rs"]
pub mod made;

/// How many archives are made.
const ARCHIVES: u64 = 300;

#[test]
fn generated_archives_are_read_as_others_read_them_or_refused() {
    if !has("bsdtar") {
        return skip("there is no bsdtar");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (mut read, mut refused) = (0, Vec::new());
    for seed in 0..ARCHIVES {
        let made = made::made(seed);
        match made::compare(&made.bytes, dir.path(), is_root()) {
            Ok(true) => read += 1,
            Ok(false) if made.is_sound => refused.push((seed, made::ours(&made.bytes).err(), made.story)),
            Ok(false) => {}
            Err(difference) => panic!("archive {seed}, {:#?}: {difference}", made.story),
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(read > ARCHIVES * 3 / 4, "{read} of {ARCHIVES} were read");
}

/// Real archives, in each of the formats that the two programs write.
#[test]
fn archives_of_tar_and_bsdtar_are_read_as_they_read_them() {
    if !has("bsdtar") {
        return skip("there is no bsdtar");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let from = dir.path().join("from");
    std::fs::create_dir_all(from.join("d").join("e".repeat(120))).expect("our own");
    let holes = std::fs::File::create(from.join("holes")).expect("our own");
    holes.set_len(400_000).expect("our own");
    drop(holes);
    let mut holes = std::fs::OpenOptions::new().append(true).open(from.join("holes")).expect("our own");
    holes.write_all(b"end").expect("our own");
    std::fs::write(from.join("d").join("e".repeat(120)).join("f".repeat(100)), "deep").expect("our own");
    std::os::unix::fs::symlink("x".repeat(150), from.join("link")).expect("our own");
    std::fs::hard_link(from.join("holes"), from.join("z")).expect("our own");
    for (program, options) in [
        ("tar", &["--format=gnu", "--sparse"][..]),
        ("tar", &["--format=oldgnu", "--sparse"]),
        ("tar", &["--format=pax", "--sparse", "--sparse-version=0.0"]),
        ("tar", &["--format=pax", "--sparse", "--sparse-version=0.1"]),
        ("tar", &["--format=pax", "--sparse", "--sparse-version=1.0"]),
        ("tar", &["--format=pax", "--pax-option=globexthdr.name=g,comment=x"]),
        ("bsdtar", &["--format=pax"]),
        ("bsdtar", &["--format=gnutar"]),
    ] {
        let made =
            std::process::Command::new(program).args(options).arg("-C").arg(&from).args(["-cf", "-", "."]).output().expect("it runs");
        assert!(made.status.success(), "{program} {options:?}: {made:?}");
        let result = made::compare(&made.stdout, dir.path(), is_root());
        assert_eq!(result, Ok(true), "{program} {options:?}: {:?}", made::ours(&made.stdout).err());
    }
}
