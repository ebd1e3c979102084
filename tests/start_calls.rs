//! Counts of system calls of a start: they do not depend on the load of a machine, so a change that adds cost is seen.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use crate::support::images::{Layer, base, layout, upper};
use crate::support::{As, Silo, has, skip};

/// System calls of `silo run sh -c true` without a project, of all its processes, until they are gone. Kernels and file systems
/// differ by a few calls: 765 was seen here.
const MOST_CALLS: usize = 810;
/// The same in a project without a repository.
const MOST_CALLS_IN_A_PROJECT: usize = 1_020;
/// System calls of a build step with a small change, of all its processes; 918 was seen here.
const MOST_CALLS_OF_A_STEP: usize = 930;
/// System calls that review mode adds to a start in a project.
const MOST_ADDED_BY_REVIEW: usize = 30;
/// Calls that depend on the load or on the build: of waiting, of threads and of the allocator, and the checks of a debug build.
const OTHER: [&str; 15] = [
    "futex",
    "ppoll",
    "poll",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "brk",
    "mmap",
    "munmap",
    "mprotect",
    "madvise",
    "sched_getaffinity",
    "set_robust_list",
    "rseq",
    "restart_syscall",
];
/// Each command is counted so many times, and the least counts: a busy machine adds calls, such as interrupted ones.
const TIMES: usize = 4;

/// Counted calls of one run.
#[derive(Debug, Default)]
struct Calls {
    all: usize,
    /// Calls that change files of the host's disk, with their paths.
    writes: Vec<String>,
    by_name: BTreeMap<String, usize>,
}

/// Counts the calls of a command of silo; `None` without a tracer.
fn count(silo: &Silo, words: &[&str]) -> Calls {
    let home = silo.path("");
    let trace = silo.project().with_file_name("trace");
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-s", "400", "-o"]).arg(&trace);
    let command = silo.command(words);
    tracer.arg(command.get_program()).args(command.get_args()).current_dir(silo.project()).env_clear();
    tracer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let done = crate::support::done(&mut tracer);
    assert_eq!(done.code, 0, "{done:?}");
    let mut calls = Calls::default();
    for line in fs::read_to_string(&trace).expect("a trace").lines() {
        let line = line.split_once(' ').map_or("", |(_, line)| line.trim_start());
        let Some((name, rest)) = line.split_once('(') else { continue };
        let is_call = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_call || OTHER.contains(&name) || name == "fcntl" && rest.contains("F_GETFD") {
            continue;
        }
        calls.all += 1;
        *calls.by_name.entry(name.to_owned()).or_default() += 1;
        if name.starts_with("mkdir") && rest.contains("<unfinished") {
            continue;
        }
        let is_made = name.starts_with("open") && (rest.contains("O_TRUNC") || rest.contains("O_EXCL"));
        let is_change = ["rename", "unlink", "mkdir", "link", "symlink", "fsync", "fdatasync", "syncfs", "sync"]
            .iter()
            .any(|start| name.starts_with(start));
        if (is_made || is_change) && rest.contains(&*home.to_string_lossy()) && !rest.contains("= -1 ") || name.ends_with("sync") {
            calls.writes.push(line.to_owned());
        }
    }
    calls
}

fn least(silo: &Silo, words: &[&str]) -> Calls {
    // The first run makes directories and records.
    drop(silo.ok(words));
    (0..TIMES).map(|_| count(silo, words)).min_by_key(|calls| calls.all).expect("some runs")
}

#[test]
fn a_start_makes_few_system_calls() {
    if !has("strace") {
        return skip("there is no strace here");
    }
    let silo = Silo::shared(As::Me);
    for (words, most) in [
        (&["run", "--no-project", "sh", "-c", "true"][..], MOST_CALLS),
        (&["run", "--review=never", "sh", "-c", "true"], MOST_CALLS_IN_A_PROJECT),
    ] {
        let calls = least(&silo, words);
        crate::support::report(&format!("system calls of silo {}: {}", words.join(" "), calls.all));
        assert!(calls.all <= most, "{words:?}: {calls:?}");
    }
}

/// Review mode looks at about as many files as the guard of an ordinary run, and writes no more: what costs time is the overlay itself.
#[test]
fn review_mode_adds_few_system_calls_and_no_written_file_to_a_start() {
    if !has("strace") {
        return skip("there is no strace here");
    }
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("file"), "text\n").expect("our own project");
    let ordinary = least(&silo, &["run", "--review=never", "sh", "-c", "true"]);
    let review = least(&silo, &["run", "--review=always", "sh", "-c", "true"]);
    crate::support::report(&format!("system calls of a start: {} ordinary, {} in review mode", ordinary.all, review.all));
    assert!(
        review.all <= ordinary.all + MOST_ADDED_BY_REVIEW,
        "{} of {}: {:?} of {:?}",
        review.all,
        ordinary.all,
        review.by_name,
        ordinary.by_name
    );
    assert!(review.writes.len() <= ordinary.writes.len(), "{:?} of {:?}", review.writes, ordinary.writes);
    assert!(
        review.writes.iter().all(|line| !line.contains("/reviews/") || line.split('/').any(|part| part == "work")),
        "{:?}",
        review.writes
    );
}

/// The recipe of a tool with so many steps, each with a change.
fn chain(silo: &Silo, name: &str, steps: usize) {
    let origin = silo.project().with_file_name("image");
    if !origin.exists() {
        layout(&origin, &[Layer::plain(base()), Layer::plain(upper())]);
    }
    let steps: Vec<String> = (0..steps).map(|step| format!("\"echo {name} > /opt/{step}\"")).collect();
    let recipe = format!("version = \"1\"\ncommand = [\"cat\"]\nimage = \"oci:{}:v1\"\nsteps = [{}]\n", origin.display(), steps.join(", "));
    silo.write(&format!(".silo/recipes/{name}.toml"), &recipe);
}

/// A chain of steps costs as much as its sandboxes: no step waits for a time to pass, and the layer of other owners' files is made once.
#[test]
fn a_step_makes_few_system_calls_and_does_not_sleep() {
    if !has("strace") {
        return skip("there is no strace here");
    }
    let silo = Silo::new();
    let (few, many) = (5, 35);
    // The first command imports the image.
    chain(&silo, "first", 1);
    drop(silo.ok(["install", "--quiet", "first"]));
    let calls = [("few", few), ("many", many)].map(|(name, steps)| {
        chain(&silo, name, steps);
        count(&silo, &["install", "--quiet", name])
    });
    let [few_calls, many_calls] = &calls;
    let each = (many_calls.all - few_calls.all) / (many - few);
    crate::support::report(&format!("system calls of a build step: {each}"));
    let sleeps = |calls: &Calls| calls.by_name.get("clock_nanosleep").copied().unwrap_or(0);
    assert!(each <= MOST_CALLS_OF_A_STEP, "{each}: {:?}", many_calls.by_name);
    assert!(sleeps(many_calls) <= sleeps(few_calls), "{:?}", many_calls.by_name);
}
