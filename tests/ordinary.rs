//! Runs all sandbox tests again as an ordinary user: a copy of this test program runs under a user id without an account, with a home that
//! this user built.

use std::fs;
use std::process::Command;

use crate::support::{As, NOBODY, PROGRAM, SHARED_HOME, Silo, copy_program, done, is_root, program, skip};

#[test]
fn sandboxes_hold_for_an_ordinary_user_too() {
    if !is_root() {
        return skip("these tests run as an ordinary user already");
    }
    let silo = Silo::shared(As::Nobody);
    // The build directory may be where only its owner can look.
    let place = tempfile::Builder::new().prefix("silo-ordinary-").tempdir().expect("a temporary directory");
    let (tests, silos) = (place.path().join("tests"), place.path().join("silo"));
    copy_program(&std::env::current_exe().expect("this program"), &tests);
    copy_program(&program(), &silos);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    // The home's shims point to the program that installed it, a copy for this purpose only.
    let link = silo.path("program");
    fs::remove_file(&link).expect("an install makes it");
    std::os::unix::fs::symlink(&silos, &link).expect("our own directory");
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "--"]).arg(&tests);
    command
        .args([
            "escape::",
            "foreign::programs",
            "launch::",
            "run::",
            "sight::",
            "grants::",
            "guards::a_repository",
            "guards::whoever",
            "network::the_last_bytes_of_a_program_arrive",
            // Their names end in that of `sight`, and they use the caller's own downloads.
            "--skip",
            "insight::",
        ])
        .env(PROGRAM, &silos)
        .env(SHARED_HOME, silo.home())
        .env("HOME", silo.home())
        .current_dir("/");
    let done = done(&mut command);
    assert_eq!(done.code, 0, "{}\n{}", done.out, done.err);
    assert!(done.out.contains("every_probe_finds_its_door_closed ... ok"), "{}", done.out);
}
