//! `cargo bench`: measures Silo's promises about speed, and its neighbours, in one run.
//!
//! Each comparison runs in rounds, one after the other in each round, so that other work of the machine
//! strikes all of them alike; the least and the median of the rounds are printed, and ratios of the least. The program
//! measured is the one that `cargo bench` builds (the release profile). `cargo bench -- build start 5` runs only the
//! groups named, in five rounds; without names all of them are run. With `SILO_BLESS=1` the tables are written to
//! docs/promises.md.
#![allow(clippy::disallowed_methods, reason = "tests read the environment they are told things by")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing a table is what this program is for")]

use std::process::ExitCode;

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "it is written for the tests")]
mod support;

mod build;
mod graph;
mod growth;
mod network;
mod pull;
mod review;
mod shims;
mod ship;
mod start;
mod table;
mod vm;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let rounds = words.iter().find_map(|word| word.parse().ok());
    let wanted = |group: &str| {
        let mut named = words.iter().filter(|word| word.parse::<usize>().is_err()).peekable();
        named.peek().is_none() || named.any(|word| word == group)
    };
    let start = !wanted("start") || start::run(rounds.unwrap_or(30));
    let build = !wanted("build") || build::run(rounds.unwrap_or(3));
    let graph = !wanted("graph") || graph::run(rounds.unwrap_or(5));
    let growth = !wanted("growth") || growth::run(rounds.unwrap_or(3));
    let network = !wanted("network") || network::run(rounds.unwrap_or(5));
    let pull = !wanted("pull") || pull::run(rounds.unwrap_or(3));
    let review = !wanted("review") || review::run(rounds.unwrap_or(3));
    let ship = !wanted("ship") || ship::run(rounds.unwrap_or(3));
    let shims = !wanted("shims") || shims::run(rounds.unwrap_or(100));
    let vm = !wanted("vm") || vm::run(rounds.unwrap_or(5));
    if std::env::var_os("SILO_BLESS").is_some() {
        let groups: Vec<&str> = words.iter().map(String::as_str).collect();
        table::write_page(&groups);
    }
    if start && build && graph && growth && network && pull && review && ship && shims && vm {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
