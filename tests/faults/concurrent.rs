//! Parallel commands: installs of one tool, and garbage collection.

use std::fs;
use std::thread;
use std::time::Duration;

use silo_store::flock;
use silo_store::layout::Store;

use super::mirror::{mirror, path_of};
use super::{assert_whole, image, names, silo_of, silo_with_sh, start};
use crate::support::http::Fault;

#[test]
fn two_installs_and_a_collection_do_not_disturb_one_another() {
    let http = mirror();
    let silo = silo_of(&http);
    http.misbehave(&path_of("coreutils"), [Fault::Slow(300_000, Duration::from_millis(50))]);
    let (mut one, mut two) = (start(&silo, ["install", "sh"]), start(&silo, ["install", "sh"]));
    assert!(one.until(|| !names(&silo.path("downloads/partial")).is_empty()));
    let done = silo.fails(["gc", "--all"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("nothing was collected: the store is in use by `silo install sh` (process "), "{done:?}");
    assert!(done.err.contains("hint: try again when it has ended"), "{done:?}");
    assert!(two.until(|| silo.path("work").exists()) || silo.path("tools/sh.toml").exists());
    let (one, two) = (one.end(), two.end());
    for done in [&one, &two] {
        assert_eq!(done.code, 0, "{done:?}");
        assert!(done.out.contains(&image(&silo)[..12]), "{done:?}");
    }
    // Each file was fetched by one of them, and the other waited for it.
    let mut fetched: Vec<String> = http.seen().into_iter().map(|seen| seen.target).collect();
    let count = fetched.len();
    fetched.sort();
    fetched.dedup();
    assert_eq!(fetched.len(), count, "some file was fetched twice");
    assert_whole(&silo);
}

#[test]
fn a_command_waits_until_a_collection_has_ended() {
    let silo = silo_with_sh();
    let store = Store::open(&silo.path("")).expect("a store");
    let collecting = flock::exclude(&store).expect("nobody uses it");
    let mut install = start(&silo, ["install", "sh"]);
    thread::sleep(Duration::from_millis(300));
    assert!(install.child().try_wait().expect("our own child").is_none(), "it does not wait");
    assert!(fs::read_dir(silo.path("stage")).expect("a store").next().is_none());
    drop(collecting);
    let done = install.end();
    assert!(done.code == 0 && done.out.contains("is installed already"), "{done:?}");
}
