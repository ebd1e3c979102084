//! The `silo` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    silo::cli::main(std::env::args_os().collect())
}
