//! The memory of a run in addition to its program's.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{As, Silo};

/// Most memory for the program's own file, in KiB, in the process that the user started, while its program runs. A start needs 12 MiB in a
/// release, and more in a debug build.
const MAX_KIB: u64 = 8 << 10;

/// Returns the resident pages of a process that are of its program's file, in KiB. Other processes with the same file do not change it.
fn own_kib(pid: u32) -> u64 {
    let program = fs::read_link(format!("/proc/{pid}/exe")).expect("our own child");
    let program = program.to_str().expect("a path of the build");
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("our own child");
    let (mut is_own, mut kib) = (false, 0);
    for line in maps.lines() {
        match line.split_once(':') {
            Some(("Rss", size)) if is_own => kib += size.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number"),
            // The first line of a part has its addresses, and its file at the end.
            _ if line.starts_with(|first: char| first.is_ascii_hexdigit() && !first.is_ascii_uppercase()) => {
                is_own = line.ends_with(program)
            }
            _ => {}
        }
    }
    kib
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
    let mut kib = own_kib(child.id());
    while kib > MAX_KIB && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
        kib = own_kib(child.id());
    }
    child.kill().and_then(|()| child.wait()).expect("our own child");
    assert!(kib > 0 && kib <= MAX_KIB, "{kib} KiB");
}
