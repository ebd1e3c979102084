//! Tampered signed indexes. The archive's keys are compiled in, so the real InRelease is tampered with.

use super::mirror::{mirror, origin};
use super::{names, silo_of};
use crate::support::http::Http;
use crate::support::skip;

const INRELEASE: &str = "/debian/dists/trixie/InRelease";

/// Returns the real signed index of a suite, or says why the test is skipped.
fn inrelease(path: &str) -> Option<String> {
    let found = origin(path).and_then(|bytes| String::from_utf8(bytes).ok());
    if found.is_none() {
        skip("the machine's mirror cannot be reached");
    }
    found
}

/// Asserts that locking `sh` from `http` fails, saying all of `expect`, and leaves nothing.
fn check_refused(http: &Http, expect: &[&str]) {
    let silo = silo_of(http);
    for args in [vec!["lock", "sh", "--update"], vec!["lock", "sh", "--update", "--output", "mine.lock"]] {
        let done = silo.fails(args);
        assert_eq!(done.code, 1, "{done:?}");
        for text in expect {
            assert!(done.err.contains(text), "{text}: {done:?}");
        }
        assert!(!silo.project().join("mine.lock").exists());
        assert!(!names(&silo.path("recipe-locks")).iter().any(|name| name.contains(".lock.")), "nothing half is left");
    }
}

#[test]
fn a_tampered_inrelease_is_refused() {
    let Some(honest) = inrelease(INRELEASE) else { return };
    let armour = honest.find("-----BEGIN PGP SIGNATURE-----").expect("it is signed");
    let body = honest.find("Origin: ").expect("it has a body");
    let other = inrelease("/debian/dists/trixie-updates/InRelease").expect("a mirror has all suites");
    let broken = "InRelease of trixie: ";
    let hint = "hint: the mirror may be broken or hostile; set another in mirrors.debian of ~/.silo/silo.toml";
    for (text, expect) in [
        (honest.replacen("Origin: Debian", "Origin: Dablan", 1), vec![broken, "the text differs from the signed one", hint]),
        // One digit of one digest: the very attack that the signature is for.
        (tampered_digest(&honest), vec![broken, "the text differs from the signed one", hint]),
        (honest[body..armour].to_owned(), vec![broken, "file is not signed", hint]),
        (honest[..armour].to_owned(), vec![broken, hint]),
        (format!("{}-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n", &honest[..armour]), vec![broken, hint]),
        (format!("{honest}Suite: evil\n"), vec![broken, hint]),
        (honest[..honest.len() / 2].to_owned(), vec![broken, hint]),
        (String::new(), vec![broken, hint]),
        (other, vec!["the mirror sent the index of trixie-updates instead of trixie"]),
    ] {
        let http = mirror();
        http.put(INRELEASE, text.as_bytes(), []);
        check_refused(&http, &expect);
    }
}

fn tampered_digest(inrelease: &str) -> String {
    let at = inrelease.find("main/binary-amd64/Packages.xz").expect("the index lists packages");
    let digit = inrelease[..at].rfind(|c: char| c.is_ascii_hexdigit()).expect("after their size");
    let other = if inrelease.as_bytes()[digit] == b'1' { "2" } else { "1" };
    format!("{}{other}{}", &inrelease[..digit], &inrelease[digit + 1..])
}

#[test]
fn a_tampered_package_index_is_refused() {
    if inrelease(INRELEASE).is_none() {
        return;
    }
    let http = Http::over(|path| {
        let is_index = path.starts_with("/debian/dists/trixie/main/binary-amd64/");
        let mut bytes = origin(path)?;
        if let Some(byte) = bytes.last_mut().filter(|_| is_index) {
            *byte ^= 1;
        }
        Some(bytes)
    });
    let expect = [
        "cannot lock sh",
        "/debian/dists/trixie/main/binary-amd64/",
        "expected sha256",
        "hint: the mirror or a proxy served something else",
    ];
    check_refused(&http, &expect);
}

#[test]
fn a_mirror_without_the_index_is_reported() {
    check_refused(
        &Http::start(),
        &[
            "cannot lock sh: no mirror has the suite trixie",
            "gone from http://127.0.0.1:",
            "hint: check that debian.suite of the recipe is a Debian release",
        ],
    );
}

#[test]
fn an_index_older_than_the_last_locks_is_refused_unless_that_is_wanted() {
    if inrelease(INRELEASE).is_none() {
        return;
    }
    let http = mirror();
    let silo = silo_of(&http);
    let _ = silo.ok(["lock", "sh", "--update"]);
    let path = silo.path("recipe-locks/sh.lock");
    let text = std::fs::read_to_string(&path).expect("a lock");
    // As if the last lock had been made from indexes of the year 2100.
    let later: String =
        text.lines().map(|line| if line.starts_with("date = ") { "date = 4102444800\n".to_owned() } else { format!("{line}\n") }).collect();
    assert_ne!(text, later, "the lock names its indexes");
    std::fs::write(&path, &later).expect("our own lock");
    let done = silo.fails(["lock", "sh", "--update"]);
    assert!(done.err.contains("is older than that of the last lock, 2100-01-01") && done.err.contains("mirrors.allowStale"), "{done:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("a lock"), later, "the lock stays as it is");
    let settings = silo.path("silo.toml");
    let before = std::fs::read_to_string(&settings).expect("the mirrors are set there");
    std::fs::write(&settings, before.replacen("[mirrors]\n", "[mirrors]\nallowStale = true\n", 1)).expect("our own settings");
    let _ = silo.ok(["lock", "sh", "--update"]);
    std::fs::write(silo.project().join("silo.toml"), "[mirrors]\nallowStale = true\n").expect("our own project");
    assert!(silo.fails(["lock", "sh", "--update"]).err.contains("mirrors.allowStale is a user setting"));
}
