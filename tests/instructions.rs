//! Counts of instructions of commands that start often. They do not depend on the load of a machine, so a change that adds cost is seen.
//!
//! The counts are of a debug build, which makes several times the instructions of a release.

use std::fs;
use std::process::Command;

use crate::support::{As, Silo, done, has, report, skip};

/// Instructions of a command of silo, without those of the programs that it starts.
fn instructions(silo: &Silo, words: &[&str]) -> u64 {
    let command = silo.command(words);
    let mut counter = Command::new("valgrind");
    counter.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(command.get_program()).args(command.get_args());
    counter.current_dir(silo.project()).env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let counted = done(&mut counter);
    let line = counted.err.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim().to_owned());
    line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{words:?}: {counted:?}"))
}

#[test]
fn commands_that_start_often_take_few_instructions() {
    if !has("valgrind") {
        return skip("there is no valgrind here");
    }
    if !cfg!(debug_assertions) {
        return skip("the bounds are of a debug build");
    }
    let silo = Silo::shared(As::Me);
    // The first run makes directories and records.
    let _ = silo.ok(["install", "--quiet", "sh"]);
    // A shim of a tool that is not pinned: everything but the next program, which is not there.
    let other = Silo::new();
    other.write(".silo/shims", "silo shims 1\ntool nothing\nshim nothing\n");
    fs::create_dir_all(other.path("bin")).expect("our own home");
    let launcher = other.path("bin/nothing").to_string_lossy().into_owned();
    for (silo, words, most) in [
        (&silo, &["--version"][..], 610_000),
        (&silo, &["install", "--quiet", "sh"], 147_000_000),
        (&silo, &["list"], 24_000_000),
        (&other, &["--called-as=nothing", &launcher, "a", "b"], 620_000),
    ] {
        let count = instructions(silo, words);
        report(&format!("instructions of silo {}: {count}", words.join(" ")));
        assert!(count <= most, "{words:?}: {count} instructions, at most {most} are expected");
    }
}
