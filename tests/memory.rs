//! The memory of a run in addition to its program's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{As, Silo};

/// Most memory of the process that the user started, in KiB, while its program runs. Its start alone needs ten times as much.
const MAX_KIB: u64 = 3 << 10;

/// Returns the proportional set size of a process, in KiB.
fn proportional_kib(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("our own child");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a size");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn a_run_gives_back_the_memory_of_its_start() {
    let silo = Silo::shared(As::Me);
    let mut run = silo.command(["run", "sh", "-c", "echo started; exec sleep 600"]);
    let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("silo starts");
    let mut said = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut said).expect("the program writes");
    assert_eq!(said, "started\n");
    let until = Instant::now() + Duration::from_secs(300);
    let mut kib = proportional_kib(child.id());
    while kib > MAX_KIB && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        kib = proportional_kib(child.id());
    }
    child.kill().and_then(|()| child.wait()).expect("our own child");
    assert!(kib <= MAX_KIB, "{kib} KiB");
}
