//! VM snapshots: each restored VM has its own identity, and invalid snapshots are not used.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{As, Done, Silo};
use crate::vm;
use rustix::process::{Pid, Signal, kill_process};

/// How often a machine goes on from one snapshot.
const TIMES: usize = 20;
/// The number of parallel runs.
const AT_ONCE: usize = 5;

/// One test of these at a time: they remove each other's snapshots.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A silo with a `sh` without snapshots, for one test, and the directory of its later snapshots.
fn without_any() -> (MutexGuard<'static, ()>, Silo, PathBuf) {
    let alone = alone();
    let silo = vm::silo(As::Me);
    let place = place(&silo, "sh");
    let _ = fs::remove_dir_all(&place);
    (alone, silo, place)
}

/// Where the snapshots of a tool's image are.
fn place(silo: &Silo, tool: &str) -> PathBuf {
    silo.installed(tool).root.with_file_name("snapshots")
}

/// Lists the whole ones.
fn kept(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
    let whole = |path: &PathBuf| path.join("state").exists() && !path.file_name().expect("a name").to_string_lossy().starts_with("undone");
    entries.filter(whole).collect()
}

/// Waits for work in the background, which has the lowest priority on this computer.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if so() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("never: {what}");
}

/// A run in a machine.
fn run(silo: &Silo, script: &str) -> Done {
    silo.run(["run", "--no-project", "--tier", "vm", "sh", "-c", script])
}

/// Runs something until there is a snapshot for it, and says which.
fn taken(silo: &Silo, place: &Path) -> PathBuf {
    let booted = run(silo, "exit 3");
    assert_eq!(booted.code, 3, "{}", booted.err);
    until("a snapshot is taken", || kept(place).len() == 1);
    kept(place).remove(0)
}

/// The identity of a restored VM: random numbers of three kinds, and its clock in seconds.
const OWN: &str = "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/uuid; \
    cat /proc/sys/kernel/random/boot_id; date +%s";

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[test]
fn machines_that_go_on_from_one_snapshot_are_different_ones() {
    let (_alone, silo, place) = without_any();
    let snapshot = taken(&silo, &place);
    let used = |path: &Path| fs::metadata(path.join("state")).and_then(|data| data.modified()).expect("it is there");
    let mut seen = BTreeSet::new();
    let mut look = |said: &str, before: u64, after: u64| {
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 4, "{said}");
        let clock: u64 = lines[3].parse().expect("a number");
        assert!((before..=after).contains(&clock), "{before} {clock} {after}");
        for number in &lines[..3] {
            assert!(number.len() >= 32 && seen.insert((*number).to_owned()), "{number} came twice");
        }
    };
    for _ in 0..TIMES {
        let (last, before) = (used(&snapshot), seconds());
        let done = run(&silo, OWN);
        assert_eq!(done.code, 0, "{}", done.err);
        look(&done.out, before, seconds());
        assert!(used(&snapshot) > last, "this one has booted");
    }
    let before = seconds();
    let start = |_| {
        let mut command = silo.command(["run", "--no-project", "--tier", "vm", "sh", "-c", OWN]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("silo starts")
    };
    let machines: Vec<_> = (0..AT_ONCE).map(start).collect();
    for machine in machines {
        let done = machine.wait_with_output().expect("it ends");
        assert!(done.status.success());
        look(&String::from_utf8_lossy(&done.stdout), before, seconds());
    }
    assert_eq!(kept(&place), [snapshot], "it was of use to each");
}

#[test]
fn a_snapshot_holds_no_data_of_the_run_before_it() {
    let (_alone, silo, place) = without_any();
    let project = silo.project();
    fs::write(project.join("silo-marks-a-file"), "silo-marks-bytes").expect("written");
    let mut command = silo.command(["run", "--tier", "vm", "sh", "-c", "cat silo-marks-*; echo $TERM silo-marks-words"]);
    let done = command.env("TERM", "silo-marks-term").current_dir(&project).output().expect("silo runs");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "silo-marks-bytessilo-marks-term silo-marks-words\n");
    until("a snapshot is taken", || kept(&place).len() == 1);
    for name in ["memory", "state"] {
        let bytes = fs::read(kept(&place)[0].join(name)).expect("it is there");
        assert!(!bytes.windows(11).any(|piece| piece == b"silo-marks-"), "{name}");
    }
    let again = silo.command(["run", "--tier", "vm", "sh", "-c", "cat silo-marks-*"]).current_dir(&project).output().expect("silo runs");
    assert_eq!(again.stdout, b"silo-marks-bytes", "the project is there all the same");
}

#[test]
fn incomplete_and_outdated_snapshots_are_not_used() {
    let (_alone, silo, place) = without_any();
    let cold = silo.run(["run", "--cold", "--no-project", "--tier", "vm", "sh", "-c", "exit 4"]);
    assert!(cold.code == 4 && !place.exists(), "{}", cold.err);
    // A silo that takes a snapshot is killed.
    assert_eq!(run(&silo, "exit 3").code, 3);
    let undone = || fs::read_dir(&place).into_iter().flatten().flatten().find(|entry| entry.path().join("memory").exists());
    until("a snapshot is being taken", || undone().is_some());
    let makers = makers();
    assert!(!makers.is_empty());
    makers.iter().for_each(|pid| kill_process(*pid, Signal::KILL).expect("it is there"));
    let left = undone().expect("it is there").path();
    assert!(kept(&place).is_empty());
    let snapshot = taken(&silo, &place);
    assert!(!left.exists(), "the next one tidies up");
    // One that is damaged is thrown away, and the machine boots.
    let mut state = fs::OpenOptions::new().write(true).open(snapshot.join("state")).expect("it is there");
    state.write_all(&[0xff; 64]).expect("written");
    assert_eq!(run(&silo, "exit 5").code, 5);
    until("another one is taken", || kept(&place).len() == 1);
    assert_eq!(run(&silo, "exit 6").code, 6);
    assert_eq!(kept(&place), [snapshot], "by the same name");
}

/// The processes that take snapshots.
fn makers() -> Vec<Pid> {
    let pids = fs::read_dir("/proc").expect("it can be listed").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let takes = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let said = String::from_utf8_lossy(&line).into_owned();
        said.contains("__launch\0--snapshot") && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == crate::support::program())
    };
    pids.filter(takes).filter_map(Pid::from_raw).collect()
}

#[test]
fn compressed_vm_files_are_prepared_again() {
    let silo = Silo::seeded();
    drop(silo.ok(["install", "--quiet", "sh", "vm"]));
    let machine = ["run", "--cold", "--no-project", "--tier", "vm", "sh", "-c", "exit 7"];
    assert_eq!(silo.run(machine).code, 7);
    drop(silo.ok(["cache", "compress", "--all", "--quiet"]));
    let left = |tool: &str| {
        let dir = silo.installed(tool).root.parent().expect("an image's").to_owned();
        fs::read_dir(dir).expect("it is there").flatten().map(|entry| entry.file_name()).collect::<BTreeSet<_>>()
    };
    for tool in ["sh", "vm"] {
        assert_eq!(left(tool), BTreeSet::from(["config.json".into(), "index".into()]), "{tool}");
    }
    let again = silo.run(machine);
    assert_eq!(again.code, 7, "{}", again.err);
}
