//! Selects the packages that apt would install, with the package `silo-resolve` alone.
//!
//! `cargo run -p silo-resolve --example resolve -- PACKAGES ARCHITECTURE NAME...`: PACKAGES is an uncompressed index of an apt archive, such
//! as a file `*_Packages` in `/var/lib/apt/lists`; ARCHITECTURE is Debian's name, as `amd64`.
#![allow(clippy::print_stdout)]

use silo_resolve::packages;
use silo_resolve::solve::{self, Request};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, architecture, names @ ..] = args.as_slice() else {
        return Err("usage: resolve PACKAGES ARCHITECTURE NAME...".into());
    };
    let text = std::fs::read(file)?;
    let indexes = [packages::parse(&text)?];
    let request = Request {
        architectures: vec![architecture],
        packages: names.iter().map(|name| solve::wanted(name)).collect::<Result<_, _>>()?,
        added: Vec::new(),
        build: Vec::new(),
        recommends: false,
        include_essential: true,
    };
    for (package, _) in solve::solve(&indexes, &request)?.packages {
        println!("{} {}", package.name, package.version);
    }
    Ok(())
}
