//! The files written by a build step, in transit between the host and a VM: the upper directory of an overlay as a tar archive.
//!
//! Both sides use the same code: the host sends the initial content of a step, and the VM sends the final content. Whiteouts are the
//! kernel's, devices with number 0. Only the extended attributes that a layer needs are included.
//!
//! The archive that the host unpacks was written by root of the VM and is not trusted. Each path is opened below the directory without
//! following symlinks, only files created here are written to, and no device is created except a whiteout.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr, lgetxattr, linkat, mkdirat, open, symlinkat,
    utimensat,
};
use rustix::io::Errno;
use silo_store::removal::remove_tree;
use tar::{Archive, Builder, EntryType, Header};

use crate::host::system::{self, PLACE};

/// The extended attributes included: the recorded owner and capabilities, the mark of true owners, and the mark of an opaque directory.
const ATTRIBUTES: [&str; 4] = ["user.silo.owner", "user.silo.capability", "user.silo.true", "user.overlay.opaque"];
/// Prefix of an extended attribute in a tar archive.
const ATTRIBUTE: &str = "SCHILY.xattr.";
/// Longest value of an attribute: two numbers.
const MAX_VALUE_BYTES: usize = 64;
/// Most bytes before an entry: extended headers, which are read into memory.
const MAX_HEAD_BYTES: u64 = 1 << 20;

/// Extra size allowed for an archive of few and small files.
const SMALL_BYTES: u64 = 64 << 20;
/// Most entries. A step's files are in a VM's memory, which a million files fill.
const MAX_ENTRIES: usize = 4 << 20;
/// Most bytes of their paths, which are kept until the end.
const MAX_PATHS_BYTES: usize = 512 << 20;

/// Returns the size limit for an archive from a VM with this much memory. A step's files are in that memory, and small files take more
/// space there than in an archive.
pub fn most(memory_bytes: u64) -> u64 {
    memory_bytes.saturating_mul(2).saturating_add(SMALL_BYTES)
}

/// Packs the content of a directory, and the directory's own mode.
pub fn pack(dir: &Path, out: impl Write) -> io::Result<()> {
    let mut packing = ArchiveWriter { tar: Builder::new(out), dir, linked: BTreeMap::new() };
    packing.tar.mode(tar::HeaderMode::Complete);
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        packing.add(&path)?;
        let full = dir.join(&path);
        if fs::symlink_metadata(&full)?.is_dir() {
            let mut names: Vec<OsString> = fs::read_dir(&full)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
            names.sort();
            waiting.extend(names.into_iter().rev().map(|name| path.join(name)));
        }
    }
    packing.tar.into_inner()?.flush()
}

struct ArchiveWriter<'a, W: Write> {
    tar: Builder<W>,
    dir: &'a Path,
    /// The first path of each file with hard links.
    linked: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> ArchiveWriter<'_, W> {
    fn add(&mut self, path: &Path) -> io::Result<()> {
        let full = self.dir.join(path);
        let data = fs::symlink_metadata(&full)?;
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut header = Header::new_gnu();
        header.set_mode(data.mode() & 0o7777);
        header.set_mtime(u64::try_from(data.mtime()).unwrap_or(0));
        header.set_size(0);
        let kind = if system::is_whiteout(&full, &data) { FileType::CharacterDevice } else { system::file_type(data.mode()) };
        if kind == FileType::RegularFile && data.nlink() > 1 {
            let known = self.linked.entry((data.dev(), data.ino())).or_insert_with(|| path.to_owned());
            if known != path {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, name, &known);
            }
        }
        header.set_entry_type(match kind {
            FileType::Directory => EntryType::Directory,
            FileType::RegularFile => EntryType::Regular,
            FileType::Symlink => EntryType::Symlink,
            FileType::CharacterDevice if system::is_whiteout(&full, &data) => EntryType::Char,
            FileType::Fifo => EntryType::Fifo,
            // A socket without its listening process is useless, and that process has ended.
            FileType::Socket => return Ok(()),
            _ => return Err(io::Error::new(ErrorKind::InvalidData, format!("{} is a device", path.display()))),
        });
        if kind == FileType::Symlink {
            return self.tar.append_link(&mut header, name, fs::read_link(&full)?);
        }
        if kind == FileType::CharacterDevice {
            header.set_device_major(0)?;
            header.set_device_minor(0)?;
        }
        let attributes = attributes(&full)?;
        if !attributes.is_empty() {
            self.tar.append_pax_extensions(attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
        }
        if kind == FileType::RegularFile {
            header.set_size(data.len());
            return self.tar.append_data(&mut header, name, File::open(&full)?.take(data.len()));
        }
        self.tar.append_data(&mut header, name, io::empty())
    }
}

fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in ATTRIBUTES {
        let mut value = [0; MAX_VALUE_BYTES];
        match lgetxattr(path, name, &mut value) {
            Ok(length) => found.push((format!("{ATTRIBUTE}{name}"), value[..length].to_vec())),
            // Not every type of file supports extended attributes.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Unpacks an archive into an empty directory.
pub fn unpack(from: &mut dyn Read, dir: &Path) -> io::Result<()> {
    let flags = PLACE | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = open(dir, flags, Mode::empty())?;
    let mut unpacking = Unpacking { root, dirs: Vec::new(), files: BTreeSet::new(), entries: 0, path_bytes: 0 };
    let left = std::cell::Cell::new(MAX_HEAD_BYTES);
    let mut tar = Archive::new(LimitedReader { inner: from, left: &left });
    for entry in tar.entries()? {
        let mut entry = entry?;
        left.set(u64::MAX);
        let spelled = entry.path_bytes().into_owned();
        unpacking.add(&mut entry).map_err(|error| {
            let path = String::from_utf8_lossy(&spelled).into_owned();
            io::Error::new(error.kind(), format!("{}: {error}", path.escape_debug()))
        })?;
        // The rest of a file's data would otherwise count as the next header.
        io::copy(&mut entry, &mut io::sink())?;
        left.set(MAX_HEAD_BYTES);
    }
    unpacking.finish()
}

/// A reader that fails after its allowance is used up.
struct LimitedReader<'a> {
    inner: &'a mut dyn Read,
    left: &'a std::cell::Cell<u64>,
}

impl Read for LimitedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            return Err(refused("the header is too long"));
        }
        let length = self.inner.read(&mut buffer[..most])?;
        self.left.set(self.left.get() - length as u64);
        Ok(length)
    }
}

struct Unpacking {
    root: OwnedFd,
    /// Directories with the mode and time to set at the end.
    dirs: Vec<(PathBuf, u32, i64)>,
    /// Files created here, which may be targets of hard links.
    files: BTreeSet<PathBuf>,
    /// Number of entries, and the total length of their paths.
    entries: usize,
    path_bytes: usize,
}

impl Unpacking {
    fn add(&mut self, entry: &mut tar::Entry<'_, LimitedReader<'_>>) -> io::Result<()> {
        let attributes = read_attributes(entry)?;
        let kind = entry.header().entry_type();
        let (mode, mtime) = (entry.header().mode()? & 0o7777, i64::try_from(entry.header().mtime()?).unwrap_or(0));
        let path = plain(&entry.path_bytes())?;
        self.entries += 1;
        self.path_bytes += path.as_os_str().len();
        if self.entries > MAX_ENTRIES || self.path_bytes > MAX_PATHS_BYTES {
            return Err(refused("too many files"));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            // The directory itself.
            let own = beneath(self.root.as_fd(), Path::new("."), OFlags::DIRECTORY)?;
            set(&own, &attributes)?;
            self.dirs.push((path, mode, mtime));
            return Ok(());
        };
        let parent = beneath(self.root.as_fd(), parent, OFlags::DIRECTORY | PLACE)?;
        let times = times(mtime);
        match kind {
            EntryType::Directory => {
                mkdirat(&parent, name, Mode::RWXU)?;
                let made = beneath(parent.as_fd(), Path::new(name), OFlags::DIRECTORY)?;
                set(&made, &attributes)?;
                self.dirs.push((path, mode, mtime));
            }
            EntryType::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = File::from(rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(entry, &mut &made)?;
                let made = OwnedFd::from(made);
                set(&made, &attributes)?;
                fchmod(&made, system::mode(mode))?;
                rustix::fs::futimens(&made, &times)?;
                self.files.insert(path);
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| refused("the link has no target"))?;
                symlinkat(OsString::from_vec(target.into_owned()), &parent, name)?;
                utimensat(&parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryType::Link => {
                let old = plain(&entry.link_name_bytes().ok_or_else(|| refused("the link has no target"))?)?;
                let (Some(dir), Some(file), true) = (old.parent(), old.file_name(), self.files.contains(&old)) else {
                    return Err(refused("the hard link's target does not exist"));
                };
                let dir = beneath(self.root.as_fd(), dir, OFlags::DIRECTORY | PLACE)?;
                linkat(&dir, file, &parent, name, AtFlags::empty())?;
                self.files.insert(path);
            }
            EntryType::Char if entry.header().device_major()? == Some(0) && entry.header().device_minor()? == Some(0) => {
                system::make_whiteout(&parent, Path::new(name))?;
            }
            EntryType::Fifo => system::make_fifo(&parent, Path::new(name), system::mode(mode & 0o777))?,
            _ => return Err(refused("unsupported type of file")),
        }
        Ok(())
    }

    /// Sets the modes and times of directories, the innermost first.
    fn finish(&self) -> io::Result<()> {
        for (path, mode, mtime) in self.dirs.iter().rev() {
            let dir = beneath(self.root.as_fd(), path, OFlags::DIRECTORY)?;
            fchmod(&dir, system::mode(*mode))?;
            rustix::fs::futimens(&dir, &times(*mtime))?;
        }
        Ok(())
    }
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn read_attributes(entry: &mut tar::Entry<'_, LimitedReader<'_>>) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut found = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let known = ATTRIBUTES.iter().find(|name| extension.key_bytes().strip_prefix(ATTRIBUTE.as_bytes()) == Some(name.as_bytes()));
        if let Some(name) = known.filter(|_| extension.value_bytes().len() <= MAX_VALUE_BYTES) {
            found.push((*name, extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

fn set(fd: &OwnedFd, attributes: &[(&'static str, Vec<u8>)]) -> io::Result<()> {
    attributes.iter().try_for_each(|(name, value)| fsetxattr(fd, *name, value, XattrFlags::empty()).map_err(Into::into))
}

/// Checks that a path stays below the directory; empty for the directory itself.
fn plain(bytes: &[u8]) -> io::Result<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(bytes));
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => return Err(refused("the path leaves the directory")),
        }
    }
    Ok(plain)
}

/// Opens a path below a directory without following symlinks.
fn beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    system::beneath(dir, path, flags)
}

fn refused(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Removes all content of a directory, before an archive is unpacked into it.
pub fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        remove_tree(&entry?.path()).map_err(|error| error.source)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn listing(dir: &Path) -> Vec<String> {
        let mut lines = Vec::new();
        let mut waiting = vec![dir.to_owned()];
        while let Some(path) = waiting.pop() {
            let data = fs::symlink_metadata(&path).expect("there");
            let what = match system::file_type(data.mode()) {
                FileType::Directory => {
                    waiting.extend(fs::read_dir(&path).expect("listed").flatten().map(|entry| entry.path()));
                    "directory".to_owned()
                }
                FileType::RegularFile => fs::read_to_string(&path).expect("read"),
                FileType::Symlink => fs::read_link(&path).expect("read").display().to_string(),
                kind => format!("{kind:?} {}", data.rdev()),
            };
            let below = path.strip_prefix(dir).expect("below").display().to_string();
            let attributes = attributes(&path).expect("read");
            // Layers hold no pipes, and no times of whiteouts.
            let is_timeless = matches!(system::file_type(data.mode()), FileType::Fifo | FileType::CharacterDevice);
            let mtime = if is_timeless { 0 } else { data.mtime() };
            lines.push(format!("{below} {:o} {mtime} {} {what} {attributes:?}", data.mode(), data.nlink()));
        }
        lines.sort();
        lines
    }

    #[test]
    fn packed_changes_are_unpacked() {
        let place = tempfile::tempdir().expect("a directory");
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        for dir in [&from, &to, &from.join("closed"), &from.join("deep")] {
            fs::create_dir(dir).expect("made");
        }
        let long = from.join("deep").join("x".repeat(200));
        fs::write(&long, "long").expect("written");
        fs::write(from.join("plain"), "hello").expect("written");
        fs::hard_link(from.join("plain"), from.join("zz")).expect("linked");
        symlink("../nowhere", from.join("link")).expect("linked");
        fs::set_permissions(from.join("plain"), fs::Permissions::from_mode(0o4755)).expect("set");
        let there = open(&from, PLACE | OFlags::DIRECTORY, Mode::empty()).expect("opened");
        system::make_whiteout(&there, Path::new("gone")).expect("anybody makes whiteouts");
        system::make_fifo(&there, Path::new("pipe"), Mode::RUSR).expect("made");
        let owned = File::open(from.join("plain")).expect("opened");
        fsetxattr(&owned, "user.silo.owner", b"33:44", XattrFlags::empty()).expect("set");
        let hiding = File::open(from.join("deep")).expect("opened");
        fsetxattr(&hiding, "user.overlay.opaque", b"y", XattrFlags::empty()).expect("set");
        fs::write(from.join("closed/inside"), "in").expect("written");
        fs::set_permissions(from.join("closed"), fs::Permissions::from_mode(0o555)).expect("set");
        let mut tar = Vec::new();
        pack(&from, &mut tar).expect("packed");
        unpack(&mut &tar[..], &to).expect("unpacked");
        assert_eq!(listing(&to), listing(&from));
        fs::set_permissions(to.join("closed"), fs::Permissions::from_mode(0o755)).expect("set");
        clear(&to).expect("cleared");
        assert_eq!(fs::read_dir(&to).expect("there").count(), 0);
        for cut in (0..tar.len() - 1024).step_by(100) {
            clear(&to).expect("cleared");
            // An archive cut between two entries is valid, any other cut is an error; neither panics.
            drop(unpack(&mut &tar[..cut], &to));
            let closed = to.join("closed");
            if closed.exists() {
                fs::set_permissions(closed, fs::Permissions::from_mode(0o755)).expect("set");
            }
        }
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        type Make = fn(&mut Builder<Vec<u8>>);
        fn put(tar: &mut Builder<Vec<u8>>, kind: EntryType, name: &[u8], target: &[u8]) {
            let mut header = Header::new_old();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name);
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target);
            header.set_cksum();
            tar.append(&header, io::empty()).expect("appended");
        }
        let cases: [(&str, Make); 9] = [
            ("the path leaves the directory", |tar| put(tar, EntryType::Regular, b"../out", b"")),
            ("the path leaves the directory", |tar| put(tar, EntryType::Regular, b"/out", b"")),
            ("Not a directory", |tar| {
                put(tar, EntryType::Symlink, b"a", b"..");
                put(tar, EntryType::Regular, b"a/out", b"");
            }),
            ("File exists", |tar| {
                put(tar, EntryType::Symlink, b"a", b"../out");
                put(tar, EntryType::Regular, b"a", b"");
            }),
            ("the path leaves the directory", |tar| put(tar, EntryType::Link, b"a", b"../out")),
            ("the hard link's target does not exist", |tar| put(tar, EntryType::Link, b"a", b"out")),
            ("the hard link's target does not exist", |tar| {
                put(tar, EntryType::Symlink, b"a", b"../out");
                put(tar, EntryType::Link, b"b", b"a");
            }),
            ("unsupported type of file", |tar| put(tar, EntryType::Block, b"a", b"")),
            ("No such file", |tar| put(tar, EntryType::Regular, b"no/parent", b"")),
        ];
        for (expect, make) in cases {
            let place = tempfile::tempdir().expect("a directory");
            let dir = place.path().join("dir");
            fs::create_dir(&dir).expect("made");
            let mut tar = Builder::new(Vec::new());
            make(&mut tar);
            let bytes = tar.into_inner().expect("written");
            let error = unpack(&mut &bytes[..], &dir).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error}: {expect}");
            assert_eq!(fs::read_dir(place.path()).expect("there").count(), 1, "{expect}");
        }
    }
}
