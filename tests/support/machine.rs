//! VMs for tests.

use std::path::Path;
use std::sync::OnceLock;

use silo_base::home::Home;
use silo_base::system::Arch;
use silo_build::image::{self, boot};
use silo_launch::spec::{MachineTime, VmFiles};

use super::{As, Silo};

/// A silo with the files of a VM.
pub fn silo(who: As) -> Silo {
    static MINE: OnceLock<()> = OnceLock::new();
    static NOBODYS: OnceLock<()> = OnceLock::new();
    let silo = Silo::shared(who);
    let once = if who == As::Me { &MINE } else { &NOBODYS };
    once.get_or_init(|| {
        let _held = Silo::hold_store();
        drop(silo.ok(["install", "--quiet", "vm"]));
        // One-time messages must not appear in a test's output.
        for tool in ["python", "sh"] {
            drop(silo.ok(["run", "--quiet", "--tier", "vm", "--cold", tool, "-c", ""]));
        }
        silo.offer_downloads();
    });
    silo
}

/// A machine for a launch spec of the test's own, with the root of the python image.
pub fn machine() -> VmFiles {
    let silo = silo(As::Me);
    let home = Home::new(silo.path(""));
    let (own, python) = (silo.image_id("vm"), silo.image_id("python"));
    let root = image::root(&home, own);
    let program = Path::new(env!("CARGO_BIN_EXE_silo"));
    let name = silo_launch::initial_name(program, Arch::host()).expect("it is there");
    let initial = boot::initial(&home, own, &name).unwrap_or_else(|| {
        let bytes = silo_launch::initial(program, &root, Arch::host()).expect("it is made");
        boot::keep_initial(&home, own, &name, &bytes).expect("it is kept")
    });
    VmFiles {
        arch: Arch::host(),
        root,
        kernel: boot::kernel(&home, own).expect("it has a kernel"),
        initial,
        disk: Some(boot::disk(&home, python).expect("it is made")),
        memory_bytes: 1 << 30,
        cpus: 1,
        time: MachineTime::Host,
        snapshots: None,
        warm_up: Vec::new(),
    }
}
