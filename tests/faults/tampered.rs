//! Packages that differ from the lock, are missing, or arrive in pieces.

use std::fs;

use silo_base::system::Arch;
use silo_model::lock::{self, Sha256};
use silo_store::digest::Digest;

use super::mirror::{digest_of, lock_of_sh, mirror, path_of};
use super::{assert_nothing, assert_whole, names, silo_of, use_mirror};
use crate::support::Silo;
use crate::support::http::Fault;

#[test]
fn a_package_with_wrong_bytes_on_the_mirror_is_refused() {
    let http = mirror();
    let path = path_of("coreutils");
    let silo = silo_of(&http);
    for (fault, expect) in [
        (Fault::WrongBytes, format!("expected sha256 {}, got ", digest_of("coreutils"))),
        (Fault::Short(1000), "got 1000 bytes or more".to_owned()),
        (Fault::TooLong(1), " bytes or more".to_owned()),
    ] {
        http.misbehave(&path, [fault]);
        let done = silo.fails(["install", "sh"]);
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.err.contains("coreutils_") && done.err.contains(&expect), "{expect}: {done:?}");
        assert!(done.err.contains("hint: the mirror or a proxy served something else"), "{done:?}");
        assert!(!silo.path("downloads").join(digest_of("coreutils")).exists());
        assert_nothing(&silo);
    }
}

#[test]
fn a_changed_download_is_refused_and_fetched_again() {
    let http = mirror();
    let silo = silo_of(&http);
    silo.seed_downloads();
    let file = silo.path("downloads").join(digest_of("coreutils"));
    let mut bytes = fs::read(&file).expect("the pool holds what sh is made of");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("our own file");
    let done = silo.fails(["install", "sh"]);
    assert_eq!(done.code, 1, "{done:?}");
    let expect = format!("but the lock has {}; the file was changed after the download", digest_of("coreutils"));
    assert!(done.err.contains("coreutils_") && done.err.contains(&expect), "{done:?}");
    assert!(done.err.contains("hint: the file was removed; run the command again to fetch it"), "{done:?}");
    assert_nothing(&silo);
    let _ = silo.ok(["install", "sh"]);
    assert_eq!(http.seen().len(), 1, "only what was removed is fetched");
    assert_whole(&silo);
}

#[test]
fn a_dropped_connection_is_resumed_where_it_broke() {
    let http = mirror();
    let silo = silo_of(&http);
    silo.seed_downloads();
    for name in ["coreutils", "bash"] {
        fs::remove_file(silo.path("downloads").join(digest_of(name))).expect("the pool holds it");
    }
    http.misbehave(&path_of("coreutils"), [Fault::Drop(300_000), Fault::Status(503), Fault::Drop(1_000_000)]);
    let _ = silo.ok(["install", "sh"]);
    let ranges: Vec<String> =
        http.seen().into_iter().filter(|seen| seen.target.contains("coreutils")).filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=300000-", "bytes=300000-", "bytes=1300000-"]);
    assert_whole(&silo);
}

#[test]
fn a_mirror_that_is_down_is_reported_with_a_hint() {
    let silo = Silo::new();
    // Port 1 has no listener.
    let mirrors = "[mirrors]\ndebian = [\"http://127.0.0.1:1/debian\"]\ndebianSecurity = [\"http://127.0.0.1:1/security\"]\nsnapshot = \"/nowhere\"\nsnapshotSecurity = \"/nowhere\"\n";
    silo.write(".silo/silo.toml", mirrors);
    let done = silo.fails(["install", "sh"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("http://127.0.0.1:1/debian/pool/") && done.err.contains("cannot connect"), "{done:?}");
    assert_nothing(&silo);
}

/// The lock of `sh` with a package that no mirror has.
fn dropped(name: &str) -> String {
    let mut lock = lock_of_sh();
    for arch in Arch::ALL {
        let package = lock.packages.get_mut(&arch).and_then(|packages| packages.get_mut("dash")).expect("sh is made of dash");
        package.path = package.path.replace("dash_", "dash_0.4.");
        package.sha256 = Sha256(Digest::of(b"superseded"));
    }
    lock::write(&[(name.to_owned(), lock)].into())
}

#[test]
fn a_dropped_package_of_a_user_recipe_suggests_a_command() {
    let http = mirror();
    let silo = silo_of(&http);
    silo.write(".silo/recipes/mine.toml", "[debian]\npackages = [\"dash\"]\n");
    silo.write(".silo/recipes/mine.lock", &dropped("mine"));
    silo.write(".silo/recipe-locks/sh.lock", &dropped("sh"));
    for (args, tool) in [(vec!["install", "mine"], "mine"), (vec!["install", "--frozen", "sh"], "sh")] {
        let done = silo.fails(args);
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.err.contains(&format!("{tool}: a locked package was not found on any mirror")), "{done:?}");
        assert!(done.err.contains("dash: gone from http://127.0.0.1:"), "{done:?}");
        assert!(done.err.contains(&format!("hint: `silo lock {tool} --update` locks newer packages")), "{done:?}");
        assert_nothing(&silo);
    }
}

#[test]
fn a_dropped_package_of_a_built_in_recipe_is_locked_again() {
    let http = mirror();
    let silo = silo_of(&http);
    // Removes the locks that other tests made in between.
    let _ = fs::remove_dir_all(silo.path("recipe-locks"));
    silo.write(".silo/recipe-locks/sh.lock", &dropped("sh"));
    let done = silo.run(["install", "sh"]);
    assert_eq!(done.code, 0, "{done:?}");
    let said = done.err.lines().filter(|line| line.contains("lock")).collect::<Vec<_>>();
    assert_eq!(said, ["silo: sh: the mirrors no longer have its locked packages; making a new lock from today's signed index"], "{done:?}");
    assert_eq!(names(&silo.path("recipe-locks")), ["sh.lock"]);
    let done = silo.run(["verify"]);
    assert!(done.code == 0 && done.out.contains(" 0 faults"), "{done:?}");
    // The new lock is kept: another install needs no network.
    silo.write(".silo/silo.toml", "[mirrors]\ndebian = [\"/nowhere\"]\ndebianSecurity = [\"/nowhere\"]\nsnapshot = \"/nowhere\"\n");
    let again = silo.ok(["install", "sh"]);
    assert!(again.contains("is installed already"), "{again}");
    use_mirror(&silo, &http);
}
