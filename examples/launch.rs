//! Launches a program in a sandbox from a launch spec, with the package `silo-launch` alone.
//!
//! `cargo run -p silo-launch --example launch -- ROOT PROGRAM [ARGUMENT...]`: ROOT is a directory with a root file system, such as the root
//! of an image (`silo show python --json` has its path). The program sees it read-only with a layer in memory above, and no network.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use silo_launch::spec::{Root, Spec, Upper};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // The launcher starts this program again as the first process of a VM.
    if args.first().is_some_and(|name| silo_launch::is_guest(name)) {
        silo_launch::guest();
    }
    let [_, root, argv @ ..] = args.as_slice() else { return usage() };
    if argv.is_empty() {
        return usage();
    }
    let root = Root { lower: vec![root.into()], upper: Upper::Ephemeral { size_bytes: 64 << 20 } };
    let spec = Spec { env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]), ..Spec::new(root, argv.to_vec()) };
    match silo_launch::launch(&spec) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            print_error(&error);
            ExitCode::from(125)
        }
    }
}

#[allow(clippy::print_stderr)]
fn usage() -> ExitCode {
    eprintln!("usage: launch ROOT PROGRAM [ARGUMENT...]");
    ExitCode::from(2)
}

#[allow(clippy::print_stderr)]
fn print_error(error: &(dyn std::error::Error + 'static)) {
    eprintln!("{}", silo_base::error_chain::of(error).join(": "));
}
