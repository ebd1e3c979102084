//! The initial file system of a machine: this very program as its first process, and the modules that the kernel needs.
//!
//! **The first process of a machine is silo itself**, as it is on the host, so both sides of the port are of one version;
//! [`super::program`] says where it is taken from. It is taken as far as it is loaded (without what is there for debuggers).
//! What it needs to know, it is told over the port.
//!
//! The archive is the kernel's `newc` form of cpio, the same bytes for the same files.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::elf::{DT_SONAME, DT_STRTAB, FileHeader64, PT_LOAD};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};

use super::program::Program;
use crate::launch::error::Error;

/// The size is padded to pages: firmware keeps tables of its own at the end of memory, where the archive is put as well.
const PAGE_BYTES: usize = 4096;
/// Where the machine's first process finds its libraries; the kernel's command line says so, too.
const LIBRARIES: &str = "silo/lib";
/// Where it finds the modules, in the order in which they are to be loaded.
pub const MODULES: &str = "modules";
/// What a machine needs, in this order; what is part of the kernel has no file, and what others need comes before them.
const WANTED: [&str; 7] = ["crc32c_generic", "virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "erofs", "overlay"];

/// Makes the archive; `root` is that of the image with the kernel's modules.
pub fn make(root: &Path, program: &Program) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "new", MODULES, "silo", LIBRARIES] {
        archive.dir(dir);
    }
    // The kernel opens the first for its first process, and the runtime library wants the second if the first is not there.
    archive.device("dev/console", (5, 1));
    archive.device("dev/null", (1, 3));
    let loaded = Loaded::of(&read(&program.path)?).ok_or_else(|| broken(&program.path))?;
    archive.file("init", 0o755, &loaded.bytes);
    for library in &program.libraries {
        let bytes = read(library)?;
        let found = Loaded::of(&bytes).ok_or_else(|| broken(library))?;
        let name = found.name.or_else(|| library.file_name().map(|name| name.as_bytes().to_vec())).unwrap_or_default();
        archive.file(&format!("{LIBRARIES}/{}", String::from_utf8_lossy(&name)), 0o755, &found.bytes);
        // The loader itself is found by the path that the program has for it.
        if let Some(loader) = loaded.loader.as_ref().filter(|loader| loader.file_name().is_some_and(|own| own.as_bytes() == name)) {
            archive.with_parents(loader, &found.bytes);
        }
    }
    for (number, module) in modules(root, program.shared_files)?.iter().enumerate() {
        archive.file(&format!("{MODULES}/{number:02}"), 0o644, &read(module)?);
    }
    Ok(archive.finish())
}

/// A program or library, as far as it is loaded.
struct Loaded {
    bytes: Vec<u8>,
    loader: Option<PathBuf>,
    name: Option<Vec<u8>>,
}

impl Loaded {
    fn of(bytes: &[u8]) -> Option<Loaded> {
        let header = FileHeader64::<Endianness>::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, bytes).ok()?;
        let end =
            segments.iter().filter(|one| one.p_type(endian) == PT_LOAD).map(|one| one.p_offset(endian) + one.p_filesz(endian)).max()?;
        let mut kept = bytes.get(..usize::try_from(end).ok()?)?.to_vec();
        // The table of sections is beyond the end now; nobody who runs a program asks for it.
        kept.get_mut(0x28..0x30)?.fill(0);
        kept.get_mut(0x3c..0x40)?.fill(0);
        let loader = segments.iter().find_map(|one| one.interpreter(endian, bytes).ok().flatten());
        let offset = |address: u64| {
            let holds = |one: &&object::elf::ProgramHeader64<Endianness>| {
                one.p_type(endian) == PT_LOAD && (one.p_vaddr(endian)..one.p_vaddr(endian) + one.p_filesz(endian)).contains(&address)
            };
            segments.iter().find(holds).map(|one| address - one.p_vaddr(endian) + one.p_offset(endian))
        };
        let entries = segments.iter().find_map(|one| one.dynamic(endian, bytes).ok().flatten()).unwrap_or_default();
        let value = |tag: u32| entries.iter().find(|one| one.tag32(endian) == Some(tag)).map(|one| one.d_val(endian));
        let name = match (value(DT_STRTAB).and_then(offset), value(DT_SONAME)) {
            (Some(strings), Some(at)) => bytes.read_bytes_at_until(strings + at..strings + at + 256, 0).ok(),
            _ => None,
        };
        Some(Loaded {
            bytes: kept,
            loader: loader.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path))),
            name: name.map(<[u8]>::to_vec),
        })
    }
}

/// Lists the modules that a machine needs, each after those that it needs itself.
fn modules(root: &Path, shared_files: &[&'static str]) -> Result<Vec<PathBuf>, Error> {
    let dir = modules_dir(root)?;
    let path = dir.join("modules.dep");
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let built_in = String::from_utf8_lossy(&read(&dir.join("modules.builtin"))?).into_owned();
    let order = in_order(&text, &built_in, WANTED.into_iter().chain(shared_files.iter().copied()));
    let order = order.map_err(|missing| failed("finding module", Path::new(missing), io::ErrorKind::NotFound.into()))?;
    Ok(order.into_iter().map(|module| dir.join(module)).collect())
}

/// The directory of the one kernel's modules.
fn modules_dir(root: &Path) -> Result<PathBuf, Error> {
    let parent = root.join("usr/lib/modules");
    let listing = fs::read_dir(&parent).map_err(|source| failed("listing", &parent, source))?;
    let mut dirs: Vec<PathBuf> = listing.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    dirs.pop().ok_or_else(|| failed("finding a kernel's modules in", &parent, io::ErrorKind::NotFound.into()))
}

/// Puts modules into the order of loading, by what depmod wrote: a module, a colon, and what it needs, the last first.
fn in_order<'a>(dependencies: &'a str, built_in: &str, wanted: impl Iterator<Item = &'static str>) -> Result<Vec<&'a str>, &'static str> {
    let stem = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or_default();
        file.split(".ko").next().unwrap_or_default().replace('-', "_")
    };
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let line = dependencies.lines().find_map(|line| line.split_once(':').filter(|(path, _)| stem(path) == name));
        match line {
            Some((path, needed)) => {
                for path in needed.split_whitespace().rev().chain([path]) {
                    if !order.contains(&path) {
                        order.push(path);
                    }
                }
            }
            // Only some kernels have this one apart from the rest.
            None if name == "crc32c_generic" || built_in.lines().any(|path| stem(path) == name) => {}
            None => return Err(name),
        }
    }
    Ok(order)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| failed("reading", path, source))
}

pub(super) fn failed(doing: &str, path: &Path, source: io::Error) -> Error {
    Error::Host { step: format!("{doing} {}", path.display()), source }
}

fn broken(path: &Path) -> Error {
    failed("reading", path, io::Error::new(io::ErrorKind::InvalidData, "it is no program that can be loaded"))
}

/// An archive in the kernel's form.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn dir(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), bytes);
    }

    fn device(&mut self, name: &str, number: (u32, u32)) {
        self.entry(name, 0o020_600, number, &[]);
    }

    /// Adds a program at an absolute path, with the directories above it.
    fn with_parents(&mut self, path: &Path, bytes: &[u8]) {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        for (slash, _) in name.match_indices('/') {
            self.dir(&name[..slash]);
        }
        self.file(name, 0o755, bytes);
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.count += 1;
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let name_size = name.len() as u32 + 1;
        let fields = [self.count, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.bytes.extend(format!("{field:08x}").bytes()));
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.align(4);
        self.bytes.extend_from_slice(bytes);
        self.align(4);
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.align(PAGE_BYTES);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::program;
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
                            kernel/net/9p/9pnet.ko.xz:\nkernel/fs/netfs/netfs.ko.xz:\n\
                            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n\
                            kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz\n\
                            kernel/drivers/char/hw_random/virtio-rng.ko.xz:\n";
        let order =
            in_order(dependencies, "kernel/drivers/virtio/virtio_pci.ko\n", ["virtio_pci", "virtio_rng", "9pnet_virtio", "9p"].into_iter());
        let expect = [
            "kernel/drivers/char/hw_random/virtio-rng.ko.xz",
            "kernel/net/9p/9pnet.ko.xz",
            "kernel/net/9p/9pnet_virtio.ko.xz",
            "kernel/fs/netfs/netfs.ko.xz",
            "kernel/fs/9p/9p.ko.xz",
        ];
        assert_eq!(order, Ok(expect.to_vec()));
        assert_eq!(in_order(dependencies, "", ["overlay"].into_iter()), Err("overlay"));
        assert_eq!(in_order(dependencies, "", ["crc32c_generic"].into_iter()), Ok(vec![]));
    }

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        let mut archive = Archive::default();
        archive.dir("dev");
        archive.device("dev/null", (1, 3));
        archive.with_parents(Path::new("/a/b"), b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % PAGE_BYTES, 0);
        let head = "07070100000001000041ed000000000000000000000001000000000000000000000000000000000000000000000000000000040000000dev\0";
        assert!(bytes.starts_with(&head.as_bytes()[..104]), "{}", String::from_utf8_lossy(&bytes[..120]));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("archive");
        fs::write(&file, &bytes).expect("written");
        let listed = std::process::Command::new("cpio").arg("-it").arg("--quiet").stdin(fs::File::open(&file).expect("there")).output();
        // Not every machine has it; the kernel, which is what counts, reads the archive in the tests of machines.
        if let Ok(listed) = listed {
            assert_eq!(String::from_utf8_lossy(&listed.stdout), "dev\ndev/null\na\na/b\n");
        }
    }

    #[test]
    fn this_program_is_taken_as_far_as_it_is_loaded() {
        let bytes = fs::read("/proc/self/exe").expect("this test is a program");
        let loaded = Loaded::of(&bytes).expect("it can be loaded");
        assert!(loaded.bytes.len() < bytes.len());
        assert!(Loaded::of(&bytes[..100]).is_none());
        assert!(Loaded::of(b"#!/bin/sh\n").is_none());
        for library in program::own().expect("they can be listed").libraries {
            assert!(Loaded::of(&fs::read(&library).expect("it is loaded")).expect("a library").name.is_some(), "{}", library.display());
        }
    }
}
