//! True owners and capabilities in the root of a build step that has a range of ids.
//!
//! All files of the store and of a step's directory belong to the caller on disk; the attributes `user.silo.owner` and
//! `user.silo.capability` record the rest. In a step, both are real. So PID 1 lays copies of the few files of the image with another owner
//! or with capabilities over the image's layers ([`lay`]), and turns the attributes of the step's directory into owners ([`wake`]). After
//! the last process of the step has ended, it turns them into attributes again ([`Changes::rest`]).
//!
//! PID 1 has capabilities for the ids of its own user namespace only, so a file of the host with another owner cannot be changed.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags, chmodat, chownat, fchmod, fgetxattr,
    flistxattr, fsetxattr, fstat, futimens, lgetxattr, linkat, llistxattr, lremovexattr, lsetxattr, mkdirat, openat, openat2, readlinkat,
    statat, symlinkat, utimensat,
};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::process::{Gid, Uid};

use crate::failure::{Failure, StepContext};
use crate::spec::Owned;

/// The owners and capabilities of files while a sandbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// They are real, in a range of ids.
    Real,
    /// They are recorded in attributes.
    Recorded,
}

/// The attribute with a file's owner, as `uid:gid` in decimal; absent means 0:0.
const OWNER: &str = "user.silo.owner";
/// The attribute with a file's capabilities.
const CAPABILITY: &str = "user.silo.capability";
/// The attribute of a step's directory whose owners were real.
const TRUE: &str = "user.silo.true";
/// The kernel's attribute with a file's capabilities.
const KERNELS: &str = "security.capability";
/// Prefix of attributes of users.
const USERS: &[u8] = b"user.";

/// Largest list of a file's attributes, and largest value (the kernel's limits).
const MAX_BYTES: usize = 65_536;

const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
const SET_ID: u32 = 0o6000;

/// The directories of a build step whose owners are real.
pub struct Changes {
    /// The directory with the step's changes.
    pub dir: OwnedFd,
    /// The layer with the image's files of other owners.
    pub layer: Option<OwnedFd>,
    /// Host files that are the program's streams. A program may change the owner of its own output, as in `chown app /dev/stdout`.
    pub streams: Vec<OwnedFd>,
}

impl Changes {
    /// Gives all files to the caller after the step, and records the owners of its changes.
    pub fn rest(&self) -> Result<(), Failure> {
        for stream in &self.streams {
            chownat(stream, "", Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::EMPTY_PATH).during("taking back a stream")?;
        }
        self.layer.as_ref().map_or(Ok(()), |layer| reclaim(layer.as_fd()))?;
        rest(self.dir.as_fd())
    }

    /// Keeps the streams that are files of the caller.
    pub fn keep_streams(&mut self) -> Result<(), Failure> {
        for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            let is_own =
                |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && (stat.st_uid, stat.st_gid) == (0, 0);
            if fstat(stream).is_ok_and(is_own) {
                self.streams.push(fcntl_dupfd_cloexec(stream, 3).during("keeping a stream")?);
            }
        }
        Ok(())
    }
}

/// Copies files of the layers `lower`, the topmost first, into an empty directory, with their true owners and capabilities. A directory
/// comes before its content.
pub fn copy_files(files: &[Owned], lower: &[OwnedFd], into: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut dirs = Vec::new();
    for owned in files {
        let path = owned.path.strip_prefix("/").unwrap_or(&owned.path);
        lay_one(owned, path, lower, into, &mut dirs).during_this(|| format!("setting the owner of {}", owned.path.display()))?;
    }
    // A directory's time changes with its content.
    for (path, mtime) in dirs.iter().rev() {
        utimensat(into, *path, &times(*mtime), NOFOLLOW).during_this(|| format!("setting the time of /{}", path.display()))?;
    }
    Ok(())
}

fn lay_one<'a>(
    owned: &Owned,
    path: &'a Path,
    lower: &[OwnedFd],
    into: BorrowedFd<'_>,
    dirs: &mut Vec<(&'a Path, i64)>,
) -> Result<(), std::io::Error> {
    if let Some(first) = &owned.first {
        return Ok(linkat(into, first.strip_prefix("/").unwrap_or(first), into, path, AtFlags::empty())?);
    }
    let Some(source) = lower.iter().find_map(|tree| beneath(tree, path, OFlags::PATH | OFlags::NOFOLLOW).transpose()).transpose()? else {
        return Err(Errno::NOENT.into());
    };
    let (uid, gid) = (Some(Uid::from_raw(owned.uid)), Some(Gid::from_raw(owned.gid)));
    let mode = Mode::from_raw_mode(owned.mode & 0o7777);
    match FileType::from_raw_mode(fstat(&source)?.st_mode) {
        FileType::Directory => {
            mkdirat(into, path, Mode::RWXU)?;
            chownat(into, path, uid, gid, NOFOLLOW)?;
            chmodat(into, path, mode, AtFlags::empty())?;
            dirs.push((path, owned.mtime));
        }
        FileType::Symlink => {
            let target = readlinkat(&source, "", Vec::new())?;
            symlinkat(target.as_c_str(), into, path)?;
            chownat(into, path, uid, gid, NOFOLLOW)?;
            utimensat(into, path, &times(owned.mtime), NOFOLLOW)?;
        }
        _ => {
            let Some(from) =
                lower.iter().find_map(|tree| beneath(tree, path, OFlags::RDONLY | OFlags::NOFOLLOW).transpose()).transpose()?
            else {
                return Err(Errno::NOENT.into());
            };
            let mut from = File::from(from);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut to = File::from(openat(into, path, flags, Mode::RUSR | Mode::WUSR)?);
            std::io::copy(&mut from, &mut to)?;
            let is_private = |name: &[u8]| name.starts_with(b"user.silo.") || name.starts_with(b"user.overlay.");
            for name in names(|buffer| flistxattr(&from, buffer))?.iter().filter(|name| name.starts_with(USERS) && !is_private(name)) {
                let value = value(|buffer| fgetxattr(&from, name.as_slice(), buffer))?;
                fsetxattr(&to, name.as_slice(), &value, XattrFlags::empty())?;
            }
            chownat(&to, "", uid, gid, AtFlags::EMPTY_PATH)?;
            fchmod(&to, mode)?;
            if let Some(capability) = &owned.capability {
                fsetxattr(&to, KERNELS, capability, XattrFlags::empty())?;
            }
            futimens(&to, &times(owned.mtime))?;
        }
    }
    Ok(())
}

/// Opens a path of a layer; `None` if the layer has no such path.
fn beneath(tree: &OwnedFd, path: &Path, flags: OFlags) -> Result<Option<OwnedFd>, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(tree, path, flags | OFlags::CLOEXEC, Mode::empty(), within) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Turns the recorded owners and capabilities of a step's directory into real ones.
pub fn restore_owners(dir: BorrowedFd<'_>) -> Result<(), Failure> {
    walk(dir, &mut |found| {
        for name in found.names()? {
            let Some(name) = [OWNER, CAPABILITY, TRUE].into_iter().find(|own| own.as_bytes() == name) else { continue };
            let value = value(|buffer| lgetxattr(found.place(), name, buffer))?;
            lremovexattr(found.place(), name)?;
            if name == OWNER {
                let (uid, gid) = super::chown_emulation::parse(&value);
                found.chown(uid, gid)?;
            }
            if name == CAPABILITY {
                // A forged value is not a capability set.
                let _ = lsetxattr(found.place(), KERNELS, &value, XattrFlags::empty());
            }
        }
        Ok(())
    })
}

/// Turns the owners and capabilities of a step's directory into attributes; all files belong to the caller again.
fn rest(dir: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut done: BTreeSet<(u64, u64)> = BTreeSet::new();
    walk(dir, &mut |found| {
        let kind = found.kind();
        // A whiteout.
        if kind == FileType::CharacterDevice {
            return Ok(());
        }
        if kind != FileType::Directory && found.stat.st_nlink > 1 && !done.insert((found.stat.st_dev, found.stat.st_ino)) {
            return Ok(());
        }
        let place = found.place();
        let names = found.names()?;
        let has = |wanted: &str| names.iter().any(|name| name == wanted.as_bytes());
        // Only this function writes these attributes.
        for name in [OWNER, CAPABILITY, TRUE].into_iter().filter(|name| has(name)) {
            lremovexattr(&place, name)?;
        }
        if has(KERNELS) {
            let capability = value(|buffer| lgetxattr(&place, KERNELS, buffer))?;
            lremovexattr(&place, KERNELS)?;
            record(&place, CAPABILITY, &capability)?;
        }
        let (uid, gid) = (found.stat.st_uid, found.stat.st_gid);
        if (uid, gid) != (0, 0) {
            if matches!(kind, FileType::RegularFile | FileType::Directory) {
                record(&place, OWNER, format!("{uid}:{gid}").as_bytes())?;
            }
            found.chown(0, 0)?;
        }
        Ok(())
    })?;
    record(&place(dir, OsStr::new(".")), TRUE, b"y").during("recording the owners")
}

/// Gives all files of a tree to the caller, so that the caller can remove them.
pub fn reclaim(dir: BorrowedFd<'_>) -> Result<(), Failure> {
    walk(dir, &mut |found| if (found.stat.st_uid, found.stat.st_gid) == (0, 0) { Ok(()) } else { found.chown(0, 0) })
}

/// Writes an attribute. A file system without user attributes stores none; `silo doctor` reports that.
fn record(place: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    match lsetxattr(place, name, value, XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        written => written,
    }
}

/// An entry of a directory, during a walk.
struct Found<'a> {
    dir: BorrowedFd<'a>,
    name: &'a OsStr,
    stat: Stat,
}

impl Found<'_> {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn place(&self) -> PathBuf {
        place(self.dir, self.name)
    }

    /// Returns the names of the attributes; only files and directories have attributes of users.
    fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        if !matches!(self.kind(), FileType::RegularFile | FileType::Directory) {
            return Ok(Vec::new());
        }
        let place = self.place();
        names(|buffer| llistxattr(&place, buffer))
    }

    /// Changes the owner, and keeps the set-id bits of a file, which the kernel clears.
    fn chown(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        chownat(self.dir, self.name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), NOFOLLOW)?;
        if self.kind() == FileType::RegularFile && self.stat.st_mode & SET_ID != 0 {
            chmodat(self.dir, self.name, Mode::from_raw_mode(self.stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        Ok(())
    }
}

/// Calls `act` for a directory and all entries below it. No other process may change the tree. Few directories are open at a time, for any
/// depth of the tree.
fn walk(top: BorrowedFd<'_>, act: &mut dyn FnMut(&Found<'_>) -> Result<(), Errno>) -> Result<(), Failure> {
    let step = |name: &OsStr| format!("setting the owner of {}", Path::new(name).display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = OsStr::new(".");
    let mut here = openat(top, own, flags, Mode::empty()).during("opening the step's directory")?;
    let stat = fstat(&here).during("opening the step's directory")?;
    act(&Found { dir: here.as_fd(), name: own, stat }).during_this(|| step(own))?;
    let mut waiting: Vec<Vec<CString>> = vec![list(&here, act).during("listing the step's directory")?];
    while let Some(level) = waiting.last_mut() {
        match level.pop() {
            Some(name) => {
                let name = OsStr::from_bytes(name.to_bytes()).to_owned();
                here = openat(&here, &name, flags, Mode::empty()).during_this(|| step(&name))?;
                waiting.push(list(&here, act).during_this(|| step(&name))?);
            }
            None => {
                waiting.pop();
                if !waiting.is_empty() {
                    here = openat(&here, "..", flags, Mode::empty()).during("listing the step's directory")?;
                }
            }
        }
    }
    Ok(())
}

/// Calls `act` for each entry of a directory; returns the names of its directories.
fn list(here: &OwnedFd, act: &mut dyn FnMut(&Found<'_>) -> Result<(), Errno>) -> Result<Vec<CString>, Errno> {
    let mut dirs = Vec::new();
    for entry in Dir::read_from(here)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let found = Found { dir: here.as_fd(), name, stat: statat(here, name, NOFOLLOW)? };
        if found.kind() == FileType::Directory {
            dirs.push(entry.file_name().to_owned());
        }
        act(&found)?;
    }
    Ok(dirs)
}

/// Returns a path of an entry of an open directory.
fn place(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

/// Lists the names of a file's attributes; none if the file system has no attributes.
fn names(list: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = vec![0; 1024];
    let mut listed = list(&mut buffer);
    if listed == Err(Errno::RANGE) {
        buffer.resize(MAX_BYTES, 0);
        listed = list(&mut buffer);
    }
    let listed = match listed {
        Err(Errno::OPNOTSUPP) => 0,
        listed => listed?,
    };
    Ok(buffer[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Reads the value of an attribute.
fn value(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; MAX_BYTES];
    let length = get(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
