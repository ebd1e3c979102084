//! Derived files of an image that a VM boots from: the root as an EROFS disk, the unpacked kernel, initramfs archives and VM snapshots.
//!
//! The kernel comes from `boot/vmlinuz-*`, as Debian packs it, or from `boot/vmlinux-*`, which needs no unpacking. Either way the VM gets
//! an ELF file on x86, and on ARM an image with ARM's own magic number.
//!
//! Disk and kernel are made on first use and kept in the image's directory, so they are removed with it. Both can be rebuilt from the root
//! at any time, byte for byte.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use silo_store::digest::{Digest, Hasher};
use silo_store::erofs::{self, View};
use silo_store::index::Index;
use silo_store::resolve_in_root;

use super::{Error, ImageId, failed, index_path, root};
use silo_base::home::Home;

/// An image's root as an EROFS disk.
pub const DISK: &str = "root.erofs";
/// The unpacked kernel of an image.
pub const KERNEL: &str = "vmlinux";
/// Directory of the VM snapshots taken of an image.
const SNAPSHOTS: &str = "snapshots";
/// Directory of the initramfs archives.
const INITIAL: &str = "initial";
/// Age up to which an initramfs of another name is kept, because a VM may still be starting from it.
const LATELY: Duration = Duration::from_secs(3600);
/// Limit on the size of an unpacked kernel; Debian's has 58 MB.
const MAX_KERNEL_BYTES: u64 = 256 << 20;
/// Directory of the kernels in a root.
const BOOT: &str = "boot";
/// Prefixes of kernel file names: packed and unpacked.
const KERNELS: [&str; 2] = ["vmlinuz-", "vmlinux-"];
const ELF_MAGIC: &[u8] = b"\x7fELF";
const ARM64_MAGIC: &[u8] = b"ARMd";
/// Size of the write buffer.
const PIECE_BYTES: usize = 1 << 20;

/// Returns the path of an image's EROFS disk, and makes the disk if it is missing.
pub fn disk(home: &Home, id: ImageId) -> Result<PathBuf, Error> {
    made(home, id, DISK, |out| write_disk(home, id, out))
}

/// Returns true if an image's directory has this file.
pub fn has(home: &Home, id: ImageId, name: &str) -> bool {
    home.image(&id.to_string()).join(name).exists()
}

/// Lists everything of an image that can be rebuilt from its layers, whether it exists or not.
pub fn made_of_layers(home: &Home, id: ImageId) -> [PathBuf; 5] {
    let dir = home.image(&id.to_string());
    [root(home, id), dir.join(DISK), dir.join(KERNEL), dir.join(INITIAL), snapshots(home, id)]
}

/// Returns the directory of an image's snapshots, which may not exist.
pub fn snapshots(home: &Home, id: ImageId) -> PathBuf {
    home.image(&id.to_string()).join(SNAPSHOTS)
}

/// Returns the image's disk and kernel files that exist and differ from a rebuild from the root.
pub fn changed(home: &Home, id: ImageId) -> Result<Vec<PathBuf>, Error> {
    let [_, disk, kernel, ..] = made_of_layers(home, id);
    let mut changed = Vec::new();
    if disk.exists() && digest_of(&disk)? != digest(|out| write_disk(home, id, out))? {
        changed.push(disk);
    }
    if kernel.exists() && digest_of(&kernel)? != digest(|out| write_kernel(home, id, out))? {
        changed.push(kernel);
    }
    Ok(changed)
}

fn digest(write: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<Digest, Error> {
    let mut hasher = Hasher::new();
    write(&mut hasher)?;
    Ok(hasher.finish())
}

fn digest_of(path: &Path) -> Result<Digest, Error> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    digest(|out| io::copy(&mut file, out).map(drop).map_err(failed("read", path)))
}

fn write_disk(home: &Home, id: ImageId, out: &mut dyn Write) -> Result<(), Error> {
    let written = erofs::write(&index(home, id)?, &root(home, id), View::Tree, out);
    written.map(drop).map_err(|source| Error::Compose { id, source: Box::new(source) })
}

fn write_kernel(home: &Home, id: ImageId, out: &mut dyn Write) -> Result<(), Error> {
    let root = root(home, id);
    let (_, name) = newest(&root)?;
    let path = root.join(&name);
    let bytes = resolve_in_root::read(&root, &name, MAX_KERNEL_BYTES).map_err(failed("read", &path))?;
    let broken = || failed("unpack", &path)(io::Error::new(io::ErrorKind::InvalidData, "not a kernel that a VM can boot"));
    let kernel = unpacked(bytes).ok_or_else(broken)?;
    out.write_all(&kernel).map_err(failed("write", &path))
}

/// Returns the path of an image's unpacked kernel, and unpacks the kernel if it is missing.
pub fn kernel(home: &Home, id: ImageId) -> Result<PathBuf, Error> {
    made(home, id, KERNEL, |out| write_kernel(home, id, out))
}

/// Returns the release of an image's newest kernel, if the image has a kernel and a root.
pub fn release(home: &Home, id: ImageId) -> Option<String> {
    newest(&root(home, id)).ok().map(|(release, _)| release)
}

/// Finds the newest kernel of a root, by name; returns its release and its path.
fn newest(root: &Path) -> Result<(String, PathBuf), Error> {
    let boot = root.join(BOOT);
    let listing = resolve_in_root::list(root, Path::new(BOOT)).map_err(failed("list", &boot))?;
    let release = |name: &OsStr| KERNELS.iter().find_map(|prefix| name.to_str()?.strip_prefix(prefix)).map(str::to_owned);
    let kernels = listing.iter().filter_map(|name| Some((release(name)?, Path::new(BOOT).join(name))));
    kernels.max().ok_or_else(|| failed("find a kernel in", &boot)(io::ErrorKind::NotFound.into()))
}

/// Returns a kernel in the form that a VM boots. An unpacked one is returned as it is; a packed one is unpacked as the x86 boot protocol
/// describes.
///
/// Byte 0x1f1 is the number of real-mode sectors. The compressed kernel follows them, at the offset given at 0x248 and with the length
/// given at 0x24c. Its last four bytes are the unpacked length.
fn unpacked(image: Vec<u8>) -> Option<Vec<u8>> {
    if image.starts_with(ELF_MAGIC) || image.get(0x38..0x3c) == Some(ARM64_MAGIC) {
        return Some(image);
    }
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let number = |at: usize| Some(u32::from_le_bytes(*image.get(at..)?.first_chunk::<4>()?) as usize);
    let sectors = usize::from(*image.get(0x1f1)?).max(1) + 1;
    let from = (sectors * 512).checked_add(number(0x248)?)?;
    let packed = image.get(from..from.checked_add(number(0x24c)?)?)?;
    let (packed, length) = packed.split_at_checked(packed.len().checked_sub(4)?)?;
    let length = u64::from(u32::from_le_bytes(*length.first_chunk::<4>()?));
    let mut kernel = Vec::new();
    zstd::Decoder::new(packed).ok()?.single_frame().take(MAX_KERNEL_BYTES).read_to_end(&mut kernel).ok()?;
    (kernel.len() as u64 == length && kernel.starts_with(ELF_MAGIC)).then_some(kernel)
}

fn index(home: &Home, id: ImageId) -> Result<Index, Error> {
    let path = index_path(home, id);
    let text = fs::read(&path).map_err(failed("read", &path))?;
    Index::parse(&text).map_err(|error| Error::Config { id: id.to_string(), what: error.to_string() })
}

/// Returns the path of an image's initramfs of this name, if it exists.
pub fn initial(home: &Home, id: ImageId, name: &str) -> Option<PathBuf> {
    Some(home.image(&id.to_string()).join(INITIAL).join(name)).filter(|path| path.exists())
}

/// Stores an initramfs. Archives of other names belong to other builds of this program; they are removed unless recent, since a VM may
/// still be starting from a recent one.
pub fn keep_initial(home: &Home, id: ImageId, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
    let dir = home.image(&id.to_string()).join(INITIAL);
    super::make_dir(&dir)?;
    for other in fs::read_dir(&dir).map_err(failed("list", &dir))?.flatten() {
        let age = other.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
        if age.is_some_and(|age| age > LATELY) {
            // A file that cannot be removed here is removed with the image.
            let _ = fs::remove_file(other.path());
        }
    }
    made(home, id, &format!("{INITIAL}/{name}"), |out| out.write_all(bytes).map_err(failed("write", &dir)))
}

/// Prefix of the names of files that are not finished.
const UNFINISHED: &str = ".new-";

/// Removes the unfinished files of killed processes.
fn remove_unfinished(dir: &Path) {
    for other in fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = other.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
        if other.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) && age.is_some_and(|age| age > LATELY) {
            // A file that cannot be removed here is removed with the image.
            let _ = fs::remove_file(other.path());
        }
    }
}

/// Makes a file in an image's directory; after a failure the file does not exist.
fn made(home: &Home, id: ImageId, name: &str, make: impl FnOnce(&mut dyn Write) -> Result<(), Error>) -> Result<PathBuf, Error> {
    let path = home.image(&id.to_string()).join(name);
    if path.exists() {
        return Ok(path);
    }
    // In the image's directory, which the caller has locked; `silo gc` takes everything in the work directory.
    let dir = path.parent().unwrap_or(&path);
    remove_unfinished(dir);
    let staged = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir).map_err(failed("create a file in", dir))?;
    let mut out = BufWriter::with_capacity(PIECE_BYTES, staged.as_file());
    make(&mut out)?;
    out.flush().map_err(failed("write", &path))?;
    drop(out);
    // Sync before the rename: after a power cut the name must not refer to missing bytes.
    staged.as_file().sync_all().map_err(failed("write", &path))?;
    staged.persist(&path).map_err(|error| failed("write", &path)(error.error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel file of the x86 boot protocol around these compressed bytes.
    fn image(packed: &[u8], length: u32) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        [image, packed.to_vec(), length.to_le_bytes().to_vec(), b"trailer".to_vec()].concat()
    }

    #[test]
    fn changed_files_are_detected_and_present_ones_kept() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let id = ImageId::parse(&"0".repeat(64)).expect("an id");
        let packed = zstd::encode_all(&b"\x7fELF kernel"[..], 3).expect("compressed");
        let root = root(&home, id);
        fs::create_dir_all(root.join("boot")).expect("made");
        let image = image(&packed, 11);
        fs::write(root.join("boot/vmlinuz-6.1"), &image).expect("written");
        let text = format!("silo-index 1\nd 0755 0 0 boot\nf 0644 0 0 1 {} {} boot/vmlinuz-6.1\n", image.len(), Digest::of(&image));
        fs::write(index_path(&home, id), text).expect("written");
        assert!(changed(&home, id).expect("looked").is_empty(), "missing files are not reported as changed");
        let (disk, kernel) = (disk(&home, id).expect("made"), kernel(&home, id).expect("made"));
        assert_eq!(fs::read(&kernel).expect("there"), b"\x7fELF kernel");
        assert!(changed(&home, id).expect("looked").is_empty());
        for path in [disk, kernel] {
            let mut bytes = fs::read(&path).expect("there");
            bytes[5] ^= 1;
            fs::write(&path, &bytes).expect("written");
            assert_eq!(changed(&home, id).expect("looked"), std::slice::from_ref(&path));
            bytes[5] ^= 1;
            fs::write(&path, &bytes).expect("written");
        }
        let left = fs::read_dir(home.image(&id.to_string())).expect("there").flatten();
        let is_unfinished = |entry: fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes());
        assert!(!left.into_iter().any(is_unfinished), "no temporary file is left");
    }

    #[test]
    fn kernels_are_unpacked_or_refused() {
        let kernel = [&b"\x7fELF"[..], &[7; 5000]].concat();
        let packed = zstd::encode_all(&kernel[..], 3).expect("compressed");
        assert_eq!(unpacked(image(&packed, kernel.len() as u32)), Some(kernel.clone()));
        assert_eq!(unpacked(image(&packed, 17)), None, "another length");
        assert_eq!(unpacked(image(&packed[..packed.len() - 9], kernel.len() as u32)), None, "cut");
        assert_eq!(unpacked(image(&zstd::encode_all(&b"MZ"[..], 3).expect("compressed"), 2)), None, "no kernel");
        let whole = image(&packed, kernel.len() as u32);
        for cut in [0, 1, 0x200, 0x204, 0x24a, 0x250, 1540] {
            assert_eq!(unpacked(whole[..cut].to_vec()), None, "cut at {cut}");
        }
        let arm = [&[0; 0x38][..], b"ARMd", &[0; 100]].concat();
        for ready in [kernel, arm] {
            assert_eq!(unpacked(ready.clone()), Some(ready));
        }
        for other in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &packed, &[0; 2048]] {
            assert_eq!(unpacked(other.to_vec()), None, "{:?}", &other[..other.len().min(8)]);
        }
    }

    #[test]
    fn the_newest_kernel_is_taken_whether_it_is_packed_or_not() {
        let place = tempfile::tempdir().expect("a directory");
        let (root, boot) = (place.path(), place.path().join(BOOT));
        fs::create_dir(&boot).expect("made");
        assert!(newest(root).is_err(), "there is none");
        for (name, expect) in [
            ("config-9", None),
            ("vmlinuz", None),
            ("vmlinux-6.12.1-silo", Some("vmlinux-6.12.1-silo")),
            ("vmlinuz-6.12.2", Some("vmlinuz-6.12.2")),
            ("vmlinux-6.12.3", Some("vmlinux-6.12.3")),
            ("System.map-9", Some("vmlinux-6.12.3")),
        ] {
            fs::write(boot.join(name), "").expect("written");
            assert_eq!(newest(root).ok().map(|(_, path)| path), expect.map(|name| Path::new(BOOT).join(name)), "{name}");
        }
    }
}
