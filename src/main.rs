//! The `silo` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if args.first().is_some_and(|name| silo_launch::is_guest(name)) {
        silo_launch::guest();
    }
    silo::cli::main(args)
}
