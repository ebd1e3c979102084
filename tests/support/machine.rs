//! Machines for tests that launch into them.

use std::path::Path;
use std::sync::OnceLock;

use silo::home::Home;
use silo::image::{self, ImageId, boot};
use silo::launch::spec::Machine;

use super::{As, Silo};

/// A silo that has what machines are made of.
pub fn silo(who: As) -> Silo {
    static MINE: OnceLock<()> = OnceLock::new();
    static NOBODYS: OnceLock<()> = OnceLock::new();
    let silo = Silo::shared(who);
    let once = if who == As::Me { &MINE } else { &NOBODYS };
    once.get_or_init(|| {
        let _held = Silo::hold_store();
        drop(silo.ok(["install", "--quiet", "vm"]));
        silo.offer_downloads();
    });
    silo
}

/// A machine for a launch spec of the test's own, with the root of the python image.
pub fn machine() -> Machine {
    let silo = silo(As::Me);
    let home = Home::new(silo.path(""));
    let list: serde_json::Value = serde_json::from_str(&silo.ok(["list", "--json"])).expect("a list");
    let id = |tool: &str| {
        let row = list.as_array().into_iter().flatten().find(|row| row["tool"] == tool).expect("the tool is installed");
        ImageId::parse(row["image"].as_str().expect("an image id")).expect("an image id")
    };
    let root = image::root(&home, id("vm"));
    let program = Path::new(env!("CARGO_BIN_EXE_silo"));
    let name = silo::launch::initial_name(program).expect("it is there");
    let initial = boot::initial(&home, id("vm"), &name).unwrap_or_else(|| {
        let bytes = silo::launch::initial(program, &root).expect("it is made");
        boot::keep_initial(&home, id("vm"), &name, &bytes).expect("it is kept")
    });
    Machine {
        root,
        kernel: boot::kernel(&home, id("vm")).expect("it has a kernel"),
        initial,
        disk: Some(boot::disk(&home, id("python")).expect("it is made")),
        memory_bytes: 1 << 30,
        cpus: 1,
        snapshots: None,
        warm_up: Vec::new(),
    }
}
