//! Commands killed or stopped at chosen moments, which are detected from the home's files instead of the clock.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::mirror::{lock_of_sh, mirror, path_of};
use super::{assert_nothing, assert_whole, names, paths, silo_of, start};
use crate::support::Silo;
use crate::support::http::{Fault, Http};
use silo_base::system::Arch;

/// A moment of an install, and how to see that it has come.
struct Moment {
    name: &'static str,
    has_come: fn(&Silo) -> bool,
}

const FETCH: Moment = Moment {
    name: "fetching",
    has_come: |silo| paths(&silo.path("downloads/partial")).iter().any(|path| fs::metadata(path).is_ok_and(|found| found.len() > 0)),
};
const UNPACK: Moment = Moment {
    name: "unpacking the first packages",
    has_come: |silo| paths(&silo.path("stage")).iter().any(|path| path.join("tree/usr").exists()),
};
const COMMIT: Moment = Moment { name: "committing layers", has_come: |silo| names(&silo.path("baked")).len() >= 25 };
const ROOT: Moment = Moment { name: "composing the step's root", has_come: |silo| step(silo, "upper") };
const CONFIGURE: Moment = Moment { name: "beginning to configure", has_come: |silo| log_bytes(silo) > 0 };
const CONFIGURE_LATE: Moment = Moment { name: "configuring", has_come: |silo| log_bytes(silo) > 1000 };
const CAPTURE: Moment = Moment {
    name: "capturing the step's changes",
    has_come: |silo| step(silo, "upper/var/lib/dpkg/status") && paths(&silo.path("stage")).iter().any(|path| path.join("tree").exists()),
};
const COMPOSE: Moment =
    Moment { name: "composing the image", has_come: |silo| names(&silo.path("work")).iter().any(|name| name.starts_with("image-")) };
const PUBLISH: Moment = Moment { name: "publishing the image", has_come: |silo| !names(&silo.path("images")).is_empty() };
const RECORD: Moment = Moment { name: "recording the tool", has_come: |silo| !names(&silo.path("roots/tool")).is_empty() };

fn step(silo: &Silo, below: &str) -> bool {
    paths(&silo.path("work")).iter().any(|path| path.join(below).exists())
}

fn log_bytes(silo: &Silo) -> u64 {
    let running = step(silo, "upper/var/lib/dpkg/status");
    let logs = paths(&silo.path("logs"));
    logs.iter().filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).max().filter(|_| running).unwrap_or(0)
}

/// A mirror that is slow enough for a fetch to be seen.
fn slow_mirror() -> Http {
    let http = mirror();
    http.misbehave(&path_of("coreutils"), [Fault::Slow(100_000, Duration::from_millis(20))]);
    http
}

/// The processes that have to do with the home of `silo`, by command line or mounts.
fn processes(silo: &Silo) -> Vec<String> {
    let home = silo.home().display().to_string();
    let of = |dir: std::path::PathBuf| {
        let arguments = fs::read(dir.join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        // A process in a sandbox has the step's directories in its mounts.
        let mounts = fs::read_to_string(dir.join("mountinfo")).unwrap_or_default();
        (arguments.contains(&home) || mounts.contains(&home)).then_some(arguments)
    };
    let numbered = paths("/proc".as_ref()).into_iter();
    numbered.filter(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok())).filter_map(of).collect()
}

fn assert_nothing_runs(silo: &Silo, moment: &str) {
    let began = Instant::now();
    while !processes(silo).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(60), "after {moment} this runs on: {:?}", processes(silo));
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts an install, kills it at each moment in turn, and lets the last one end.
fn relay(moments: &[Moment]) {
    let http = slow_mirror();
    let silo = silo_of(&http);
    for moment in moments {
        let mut install = start(&silo, ["install", "sh"]);
        let came = install.until(|| (moment.has_come)(&silo));
        if came {
            install.child().kill().expect("our own child");
        }
        let done = install.end();
        assert!(came, "it ended before {}: {done:?}", moment.name);
        assert_nothing_runs(&silo, moment.name);
        // The last moments are so short that it may have ended in them; either result is right.
        if done.code == 0 || silo.path("tools/sh.toml").exists() {
            break;
        }
        assert_eq!(done.code, 128 + 9, "{}: {done:?}", moment.name);
        assert_nothing(&silo);
    }
    let _ = silo.ok(["install", "sh"]);
    assert_whole(&silo);
}

#[test]
fn killed_while_fetching_unpacking_and_configuring() {
    relay(&[FETCH, UNPACK, COMMIT, ROOT, CONFIGURE, CONFIGURE_LATE]);
}

#[test]
fn killed_while_committing_composing_and_publishing() {
    relay(&[CAPTURE, COMPOSE, PUBLISH, RECORD]);
}

#[test]
fn leftovers_of_a_killed_install_are_collected() {
    let http = slow_mirror();
    let silo = silo_of(&http);
    for moment in [UNPACK, CONFIGURE] {
        // The directory that was seen may have its final place when the signal comes, and then nothing is left. The install itself ends
        // in the end.
        loop {
            let mut install = start(&silo, ["install", "sh"]);
            assert!(install.until(|| (moment.has_come)(&silo)));
            install.child().kill().expect("our own child");
            let _ = install.end();
            assert_nothing_runs(&silo, moment.name);
            if !names(&silo.path("stage")).is_empty() || !names(&silo.path("work")).is_empty() {
                break;
            }
        }
        let said = silo.ok(["gc"]);
        assert!(!said.contains(" 0 leftovers"), "{said}");
        for empty in ["stage", "work"] {
            assert_eq!(names(&silo.path(empty)), [""; 0], "{empty} after {}", moment.name);
        }
    }
    let packages = lock_of_sh().packages[&Arch::host()].len();
    assert_eq!(names(&silo.path("downloads")).iter().filter(|name| *name != "partial").count(), packages, "what was fetched is kept");
    let _ = silo.ok(["gc", "--all"]);
    assert_eq!((names(&silo.path("baked")), names(&silo.path("downloads"))), (Vec::new(), Vec::new()));
}

#[test]
fn a_signal_stops_every_phase_immediately() {
    let http = slow_mirror();
    let silo = silo_of(&http);
    for (moment, signal) in
        [(FETCH, Signal::INT), (UNPACK, Signal::INT), (COMMIT, Signal::TERM), (CONFIGURE, Signal::INT), (CONFIGURE_LATE, Signal::HUP)]
    {
        let mut install = start(&silo, ["install", "sh"]);
        assert!(install.until(|| (moment.has_come)(&silo)), "{}: {:?}", moment.name, install.end());
        install.signal(signal);
        let began = Instant::now();
        let done = install.end();
        assert_eq!(done.code, 130, "{}: {done:?}", moment.name);
        assert!(
            done.out.is_empty()
                && done.err.lines().any(|line| line.starts_with("silo: ") && line.contains("stop") || line.contains("interrupted")),
            "{}: {done:?}",
            moment.name
        );
        assert!(began.elapsed() < Duration::from_secs(60), "{} took {:?} to stop", moment.name, began.elapsed());
        assert_nothing_runs(&silo, moment.name);
        assert_nothing(&silo);
    }
    let _ = silo.ok(["install", "sh"]);
    assert_whole(&silo);
}

#[test]
fn a_signal_stops_locking() {
    let http = Http::start();
    http.put("/debian/dists/trixie/InRelease", &[b'x'; 1000], [Fault::Stall(10), Fault::Stall(10)]);
    let silo = silo_of(&http);
    silo.write(".silo/recipes/mine.toml", "[debian]\npackages = [\"dash\"]\n");
    for (number, args) in [["lock", "mine"], ["install", "mine"]].into_iter().enumerate() {
        let mut running = start(&silo, args);
        assert!(running.until(|| http.seen().len() > number));
        running.signal(Signal::INT);
        let done = running.end();
        assert_eq!(done.code, 130, "{done:?}");
        assert_eq!(names(&silo.path("recipes")), ["mine.toml"]);
    }
}

#[test]
fn a_signal_stops_waiting_for_another_install() {
    let silo = super::silo_with_sh();
    let http = mirror();
    super::use_mirror(&silo, &http);
    // The layers are there, the configure step's is not, and somebody else is making it.
    for forgotten in ["made", "tools", "images", "roots/tool"] {
        silo_store::removal::remove_tree(&silo.path(forgotten)).expect("a directory of ours");
    }
    let store = silo_store::layout::Store::open(&silo.path("")).expect("a store");
    let shared = silo_store::flock::share(&store).expect("nobody collects");
    let keys = silo_store::realisation::list(&store).expect("a store");
    let held: Vec<_> = keys.iter().map(|key| silo_store::flock::build(&store, &shared, key).expect("nobody builds")).collect();
    for path in paths(&silo.path("realisations")) {
        fs::remove_file(path).expect("a file of ours");
    }
    let mut install = start(&silo, ["install", "sh"]);
    let packages = lock_of_sh().packages[&Arch::host()].len();
    assert!(install.until(|| names(&silo.path("realisations")).len() >= packages), "the packages are found to be unpacked");
    thread::sleep(Duration::from_millis(300));
    assert!(!step(&silo, "upper"), "the step is somebody else's");
    install.signal(Signal::INT);
    let done = install.end();
    assert_eq!(done.code, 130, "{done:?}");
    drop(held);
}
