//! All integration tests, as one program.

mod support;

mod architecture;
mod cli;
mod derivation;
mod fetch;
mod recipes;

mod install;
mod reproducible;
mod run;
