//! All integration tests, as one program.
#![allow(clippy::disallowed_methods, reason = "tests read the environment they are told things by")]

mod support;

mod architecture;
mod cli;
mod derivation;
mod disk;
mod doors;
mod escape;
mod faults;
mod fetch;
mod insight;
mod install;
mod launch;
mod network;
mod oracle;
mod ordinary;
mod project;
mod recipes;
mod reproducible;
mod run;
mod shims;
mod solver;
mod traces;
