//! All integration tests, as one program.

mod support;

mod architecture;
mod cli;
mod derivation;
mod fetch;
mod recipes;

mod escape;
mod install;
mod launch;
mod ordinary;
mod reproducible;
mod run;
mod solver;
