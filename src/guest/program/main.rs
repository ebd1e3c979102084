//! The first process of a virtual machine of another architecture: Silo's guest code alone, without the command line.
//!
//! For a VM of its own architecture Silo uses itself. This program is a tenth of its size and builds without most of its dependencies, so it
//! is quick to build for each further architecture (`.ci/guest`).

/// Runs as the first process of a VM, and refuses every other start.
fn main() -> Result<(), &'static str> {
    if std::env::args_os().next().is_some_and(|name| silo_launch::is_guest(&name)) {
        silo_launch::guest();
    }
    Err("this program starts only as the first process of a virtual machine of silo")
}
