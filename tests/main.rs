//! All integration tests, as one program.
#![allow(clippy::disallowed_methods, reason = "tests read the environment they are told things by")]

mod support;

mod architecture;
mod archives;
mod broker;
mod cli;
mod clients;
mod corpus;
mod derivation;
mod disk;
mod doors;
mod escape;
mod everyday;
mod export;
mod faults;
mod fetch;
mod grants;
mod guards;
mod hostile;
mod init;
mod insight;
mod install;
mod launch;
mod limits;
mod lsp;
mod network;
mod oci;
mod oracle;
mod ordinary;
mod plan;
mod project;
mod recipes;
mod reference;
mod reproducible;
mod run;
mod settings;
mod shims;
mod sight;
mod sink;
mod snapshots;
mod solver;
mod terminal;
mod traces;
mod vm;
mod world;
