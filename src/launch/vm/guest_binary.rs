//! The program that is a VM's first process: silo for Linux, with its libraries.
//!
//! On Linux it is this very binary with the libraries that it has loaded. Where this process runs, these files exist, so nothing must be
//! built, found or shipped. On other systems, and for another architecture, it is a static binary, installed next to this one.

use std::io;
use std::path::{Path, PathBuf};

use silo_base::system::Arch;

use crate::error::Error;

/// The first process of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// The libraries that it needs.
    pub libraries: Vec<PathBuf>,
    /// The kernel modules for mounting shares; each follows the modules it depends on.
    pub shared_files: &'static [&'static str],
}

/// Modules for the shares of QEMU, and of Apple's framework.
const NINE_P: &[&str] = &["9pnet_virtio", "9p"];
const VIRTIOFS: &[&str] = &["virtiofs"];

/// Describes the first process of VMs of an architecture: this binary, or the one next to it.
pub fn of(program: &Path, arch: Arch) -> Result<Program, Error> {
    if arch == Arch::host() { own(program) } else { beside(program, arch, NINE_P) }
}

/// Describes the first process of VMs of Apple's framework.
pub fn of_framework(program: &Path, arch: Arch) -> Result<Program, Error> {
    beside(program, arch, VIRTIOFS)
}

/// Describes this binary; its libraries are those of this process.
fn own(program: &Path) -> Result<Program, Error> {
    let (own, maps) = (Path::new("/proc/self/exe"), Path::new("/proc/self/maps"));
    let target = std::fs::read_link(own).map_err(|source| failed("reading", own, source))?;
    let text = String::from_utf8_lossy(&read(maps)?).into_owned();
    Ok(Program { path: program.to_owned(), libraries: loaded(&text, &target), shared_files: NINE_P })
}

/// Lists the libraries that a process has loaded.
fn loaded(maps: &str, program: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..]))).collect();
    paths.retain(|path| path != program && path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")));
    paths.sort();
    paths.dedup();
    paths
}

/// The locations of the VM's binary relative to this one's directory: as in a package, and side by side.
const PLACES: [&str; 2] = ["../libexec/silo", "."];

/// Finds the Linux binary installed next to this one.
fn beside(this: &Path, arch: Arch, shared_files: &'static [&'static str]) -> Result<Program, Error> {
    let name = format!("silo-linux-{}", arch.machine());
    // Linux names the running program by a link in /proc, and packages put links to it on PATH.
    let this = std::fs::canonicalize(this).unwrap_or_else(|_| this.to_owned());
    let dir = this.parent().unwrap_or_else(|| Path::new("/"));
    let candidates = PLACES.map(|place| dir.join(place).join(&name));
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(Program { path: path.clone(), libraries: Vec::new(), shared_files }),
        None => {
            let [usual, _] = candidates;
            let what = format!(
                "needs silo's program for {}, which is not at {}; install a release, or run `.ci/guest {}` in silo's source",
                arch.platform(),
                usual.display(),
                arch.machine()
            );
            Err(Error::Machine { what })
        }
    }
}

/// Reads a file of the host.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| failed("reading", path, source))
}

/// Names the step and the file of an error.
pub(super) fn failed(doing: &str, path: &Path, source: io::Error) -> Error {
    Error::Host { step: format!("{doing} {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_for_linux_is_found_as_packages_have_it_or_named() {
        let place = tempfile::tempdir().expect("a directory");
        let this = place.path().join("bin/silo");
        let arch = Arch::Arm64;
        let error = beside(&this, arch, VIRTIOFS).expect_err("nothing is there").to_string();
        assert!(error.contains("libexec/silo/silo-linux-aarch64") && error.contains("linux/arm64"), "{error}");
        let dir = place.path().join("libexec/silo");
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::create_dir_all(place.path().join("bin")).expect("made");
        std::fs::write(dir.join("silo-linux-aarch64"), "program").expect("written");
        let found = beside(&this, arch, VIRTIOFS).expect("it is there");
        assert_eq!(std::fs::read(&found.path).expect("read"), b"program");
        assert_eq!((found.libraries.len(), found.shared_files), (0, &["virtiofs"][..]));
    }

    #[test]
    fn libraries_are_what_is_mapped_besides_the_program() {
        let maps = "55-56 r-xp 0 08:01 1 /usr/bin/silo\n7f-80 r-xp 0 08:01 2 /lib/libc.so.6\n80-81 rw-p 0 08:01 2 /lib/libc.so.6\n\
                    90-91 rw-p 0 00:00 0 [heap]\n91-92 r--p 0 08:01 3 /usr/lib/locale/C.utf8/LC_CTYPE\n";
        assert_eq!(loaded(maps, Path::new("/usr/bin/silo")), [PathBuf::from("/lib/libc.so.6")]);
    }
}
