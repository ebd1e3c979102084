//! All integration tests, as one program.

mod support;

mod architecture;
mod cli;
mod derivation;
mod escape;
mod faults;
mod fetch;
mod install;
mod launch;
mod oracle;
mod ordinary;
mod recipes;
mod reproducible;
mod run;
mod solver;
mod traces;
