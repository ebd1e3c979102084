//! The initramfs of a VM: this silo binary as its first process, and the kernel modules.
//!
//! **The first process of a VM is silo itself**, the same binary as on the host, so both sides of the port have the same version. See
//! [`super::guest_binary`] for its location. The archive contains only its loaded segments, without debug information. It receives its job over
//! the port.
//!
//! Modules are stored uncompressed, because decompression in an emulated VM takes a hundred times as long as here, where it is done once.
//! Signatures of modules are removed; their package was verified when it was fetched.
//!
//! The archive has the kernel's `newc` format of cpio, and is identical for identical files.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::elf::{DT_SONAME, DT_STRTAB, FileHeader64, PT_LOAD};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};
use silo_store::digest::Hasher;
use silo_store::resolve_in_root;

use super::guest_binary::{Program, failed, read};
use crate::error::Error;

/// The size is padded to pages: firmware stores its own tables at the end of memory, next to the archive.
const PAGE_BYTES: usize = 4096;
/// The directory of the first process's libraries; the kernel command line names it, too.
const LIBRARIES: &str = "silo/lib";
/// The directory of the modules for the port and the disk, numbered in load order.
pub const FIRST_MODULES: &str = "modules/first";
/// The directory of the modules for running a program.
pub const OTHER_MODULES: &str = "modules/other";
/// The required modules, in this order. Built-in ones have no file; dependencies are added before them.
const WANTED_FIRST: [&str; 5] = ["crc32c_generic", "virtio_pci", "virtio_console", "virtio_blk", "erofs"];
const WANTED_THEN: [&str; 3] = ["overlay", "virtio_rng", "virtio_balloon"];
/// The directory of modules in an image, with a subdirectory for each kernel.
const MODULES: &str = "usr/lib/modules";
/// The largest module file that is read or unpacked; the largest of these modules has 0.7 MB.
const MAX_MODULE_BYTES: u64 = 16 << 20;
/// The end of a signed module. Before it come the signature and a trailer, with the signature's length in the last four bytes.
const SIGNED: &[u8] = b"~Module signature appended~\n";
const SIGNATURE_BYTES: usize = 12;

/// Returns the cache key of the initramfs for this binary.
pub fn name(program: &Program) -> Result<String, Error> {
    let own = fs::metadata(&program.path).map_err(|source| failed("inspecting", &program.path, source))?;
    let mut hasher = Hasher::new();
    [own.dev(), own.ino(), own.size()].iter().for_each(|number| hasher.update(&number.to_le_bytes()));
    [own.mtime(), own.mtime_nsec(), own.ctime(), own.ctime_nsec()].iter().for_each(|number| hasher.update(&number.to_le_bytes()));
    Ok(hasher.finish().to_string())
}

/// Creates the archive; `root` is the root of the image with the kernel's modules.
pub fn make(root: &Path, program: &Program) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "new", "modules", FIRST_MODULES, OTHER_MODULES, "silo", LIBRARIES] {
        archive.dir(dir);
    }
    // The kernel opens the first as its first process's streams; Rust's runtime opens the second if they are missing.
    archive.device("dev/console", (5, 1));
    archive.device("dev/null", (1, 3));
    let loaded = Loaded::of(&read(&program.path)?).ok_or_else(|| broken(&program.path))?;
    archive.file("init", 0o755, &loaded.bytes);
    for library in &program.libraries {
        let bytes = read(library)?;
        let found = Loaded::of(&bytes).ok_or_else(|| broken(library))?;
        let name = found.name.or_else(|| library.file_name().map(|name| name.as_bytes().to_vec())).unwrap_or_default();
        archive.file(&format!("{LIBRARIES}/{}", String::from_utf8_lossy(&name)), 0o755, &found.bytes);
        // The dynamic loader must be at the path in the program's header.
        if let Some(loader) = loaded.loader.as_ref().filter(|loader| loader.file_name().is_some_and(|own| own.as_bytes() == name)) {
            archive.with_parents(loader, &found.bytes);
        }
    }
    let [first, then] = modules(root, program.shared_files)?;
    for (dir, modules) in [(FIRST_MODULES, first), (OTHER_MODULES, then)] {
        for (number, path) in modules.iter().enumerate() {
            let module = module(&read_of(root, path)?).map_err(|source| failed("unpacking", path, source))?;
            archive.file(&format!("{dir}/{number:02}"), 0o644, &module);
        }
    }
    Ok(archive.finish())
}

/// Unpacks a module, and removes its signature.
fn module(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut module = Vec::new();
    if bytes.starts_with(b"\xfd7zXZ\0") {
        liblzma::read::XzDecoder::new(bytes).take(MAX_MODULE_BYTES).read_to_end(&mut module)?;
    } else {
        module.extend_from_slice(bytes);
    }
    if let Some(signed) = module.strip_suffix(SIGNED)
        && let Some((before, length)) = signed.split_last_chunk::<4>()
    {
        let signature = u32::from_be_bytes(*length) as usize + SIGNATURE_BYTES - length.len();
        module.truncate(before.len().saturating_sub(signature));
    }
    if module.starts_with(b"\x7fELF") { Ok(module) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a kernel module")) }
}

/// The loaded segments of a program or library.
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
        // The section table is cut off; running a program does not need it.
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

/// Lists the required modules, each after its dependencies.
fn modules(root: &Path, shared_files: &[&'static str]) -> Result<[Vec<PathBuf>; 2], Error> {
    let dir = modules_dir(root)?;
    let path = dir.join("modules.dep");
    let text = String::from_utf8_lossy(&read_of(root, &path)?).into_owned();
    let built_in = String::from_utf8_lossy(&read_of(root, &dir.join("modules.builtin"))?).into_owned();
    let in_order = |wanted: &[&'static str]| {
        let order = in_order(&text, &built_in, wanted.iter().copied());
        order.map_err(|missing| failed("finding module", Path::new(missing), io::ErrorKind::NotFound.into()))
    };
    let first = in_order(&WANTED_FIRST)?;
    let mut then = in_order(&[shared_files, &WANTED_THEN].concat())?;
    then.retain(|module| !first.contains(module));
    Ok([first, then].map(|order| order.into_iter().map(|module| dir.join(module)).collect()))
}

/// Returns the directory of the kernel's modules, relative to the root.
fn modules_dir(root: &Path) -> Result<PathBuf, Error> {
    let parent = Path::new(MODULES);
    let names = resolve_in_root::list(root, parent).map_err(|source| failed("listing", parent, source))?;
    let last = names.last().ok_or_else(|| failed("finding a kernel's modules in", parent, io::ErrorKind::NotFound.into()))?;
    Ok(parent.join(last))
}

/// Sorts modules into load order by depmod's file: a module, a colon, and its dependencies in reverse order.
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
            // Some kernels have it built into another module.
            None if name == "crc32c_generic" || built_in.lines().any(|path| stem(path) == name) => {}
            None => return Err(name),
        }
    }
    Ok(order)
}

/// Reads a file of the image.
fn read_of(root: &Path, path: &Path) -> Result<Vec<u8>, Error> {
    resolve_in_root::read(root, path, MAX_MODULE_BYTES).map_err(|source| failed("reading", path, source))
}

fn broken(path: &Path) -> Error {
    failed("reading", path, io::Error::new(io::ErrorKind::InvalidData, "it is not a loadable ELF program"))
}

/// A cpio archive in the kernel's format.
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

    /// Adds a program at an absolute path, with its parent directories.
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
    use super::super::guest_binary;
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
    fn a_module_is_unpacked_and_its_signature_left_behind() {
        let elf = b"\x7fELF module".to_vec();
        let signed = [&elf[..], b"signature", &[0; 8], &9u32.to_be_bytes(), SIGNED].concat();
        assert_eq!(module(&signed).expect("a module"), elf);
        assert_eq!(module(&elf).expect("a module"), elf);
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(&signed[..], 6).read_to_end(&mut packed).expect("packed");
        assert_eq!(module(&packed).expect("a module"), elf);
        for broken in [&packed[..20], b"MZ", b"", SIGNED, &[b"\xff\xff\xff\xff", SIGNED].concat()] {
            assert!(module(broken).is_err(), "{broken:?}");
        }
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
        // Not every host has cpio; the tests of VMs check that the kernel reads the archive.
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
        for library in guest_binary::of(Path::new("/proc/self/exe"), silo_base::system::Arch::host()).expect("they can be listed").libraries
        {
            assert!(Loaded::of(&fs::read(&library).expect("it is loaded")).expect("a library").name.is_some(), "{}", library.display());
        }
    }
}
