//! Reads the manifests of a store's layers and verifies their files, with the package `silo-store` alone.
//!
//! `cargo run -p silo-store --example verify -- STORE`: STORE is `~/.silo`, or another home of Silo.
#![allow(clippy::print_stdout)]

use std::path::Path;

use silo_store::layout::Store;
use silo_store::{layer, verify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: verify STORE")?;
    let store = Store::open(Path::new(&dir))?;
    for id in layer::list(&store)? {
        let manifest = layer::read_manifest(&store, &id)?;
        let differences = verify::verify_layer(&store, &id)?;
        let state = if differences.is_empty() { "intact" } else { "CHANGED" };
        println!("{state} {id} {} ({} entries, {} bytes)", manifest.record.name, manifest.entries, manifest.bytes);
    }
    Ok(())
}
